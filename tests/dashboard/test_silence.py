"""A dashboard whose API server is gone says since when what it shows is old, and goes on when that answers again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from batchwright_operator.kube.client import ApiClient
from batchwright_operator.kube.credentials import find_credentials
from batchwright_operator.plugin import dashboard
from batchwright_operator.plugin.target import ClusterTarget
from batchwright_worker.dashboard.feed import Feed
from batchwright_worker.dashboard.overview import Overview
from tests.plugin.cluster_objects import deployment, node
from tests.plugin.fake_cluster import Answer, answering, cluster, config
from tests.reconcile.bed import SYSTEM


def refused(*_: str) -> tuple[int, str, bytes]:
    return 401, "application/json", b'{"kind": "Status", "message": "Unauthorized"}'


def away(*_: str) -> tuple[int, str, bytes]:
    return 503, "text/plain", b"the server is starting"


async def shown(feed: Feed, wanted: Callable[[Overview], bool]) -> Overview:
    """The first overview of that kind."""
    async with asyncio.timeout(60):
        async for _ in feed.events(pace_s=0.01, silence_s=0.05):
            if feed.overview is not None and wanted(feed.overview):
                return feed.overview
    raise AssertionError("the feed ended")


def silent(seen: Overview) -> bool:
    return any(each.reason == "NoAnswer" for each in seen.findings)


@pytest.mark.parametrize(
    ("answer", "said"), [(refused, "Unauthorized"), (away, "is starting")], ids=["token", "server"]
)
async def test_what_is_old_is_said_to_be(
    answer: Answer, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "SAMPLE_S", 0.05)
    monkeypatch.setattr(dashboard, "PACE_S", 0.01)
    here = cluster([node("fast"), deployment("ocr")])
    now = [here]

    def current(method: str, path: str) -> tuple[int, str, bytes]:
        return now[0](method, path)

    with answering(current) as server:
        path = config(tmp_path, server)
        target = ClusterTarget(kubeconfig=path, context=None, asked="", system=SYSTEM)
        credentials = await asyncio.to_thread(find_credentials, path)
        feed = Feed()
        async with ApiClient(credentials) as client, dashboard.following(client, target, feed) as published:
            assert not silent(await shown(feed, lambda seen: bool(seen.deployments)))
            now[0] = answer
            seen = await shown(feed, lambda seen: any(said in each.text for each in seen.findings))
            (told,) = [each for each in seen.findings if each.reason == "NoAnswer"]
            assert seen.findings[0] == told  # before all else
            assert seen.level == "error"
            assert said in told.text
            assert [each.name for each in seen.deployments] == ["ocr"]
            now[0] = here
            await shown(feed, lambda seen: not silent(seen))
            assert not published.done()


async def test_a_page_that_can_no_longer_be_kept_current_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than to stand still for ever, and say that it is live."""

    def fails(*_: object) -> Overview:
        raise ZeroDivisionError

    monkeypatch.setattr(dashboard, "overview", fails)
    with answering(cluster([node("fast")])) as server:
        path = config(tmp_path, server)
        target = ClusterTarget(kubeconfig=path, context=None, asked="", system=SYSTEM)
        credentials = await asyncio.to_thread(find_credentials, path)
        async with ApiClient(credentials) as client:
            with pytest.raises(ZeroDivisionError):
                await dashboard._serve(client, target, 0, opens=False)
