"""The page is served to this machine's user alone, whatever else that user's browser has open."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import aiohttp
import pytest

from batchwright_worker.dashboard.feed import Feed
from batchwright_worker.dashboard.overview import Overview
from batchwright_worker.dashboard.server import page_served
from e2e.page import BUILT, FILES, stale


@pytest.fixture
async def address() -> AsyncIterator[str]:
    feed = Feed()
    feed.publish(Overview(source="cluster", title="t", time=1.0, level="ok", headline="All is well"))
    async with page_served(feed) as address:
        yield address


async def asked(url: str, path: str, *, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and the first part of the body."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url.partition("/#")[0] + path, headers=headers) as answer,
    ):
        return answer.status, dict(answer.headers), await answer.content.read(200)


async def test_the_page_is_served_with_a_strict_policy(address: str) -> None:
    for path, kind in (("/", "text/html"), ("/dashboard.js", "text/javascript"), ("/dashboard.css", "text/css")):
        status, headers, body = await asked(address, path)
        assert (status, headers["Content-Type"].partition(";")[0]) == (200, kind)
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert body


async def test_it_listens_on_loopback_alone(address: str) -> None:
    assert urlsplit(address).hostname == "127.0.0.1"


async def test_events_need_the_token(address: str) -> None:
    token = address.partition("#")[2]
    assert len(token) >= 32
    assert (await asked(address, "/events"))[0] == 403
    assert (await asked(address, "/events?token=" + "a" * 32))[0] == 403
    status, headers, body = await asked(address, f"/events?token={token}")
    assert (status, headers["Content-Type"]) == (200, "text/event-stream")
    assert body.startswith(b"event: history\n")


@pytest.mark.parametrize("host", ["attacker.example", "attacker.example:80", "127.0.0.1.attacker.example", ""])
async def test_a_foreign_name_that_leads_here_is_refused(address: str, host: str) -> None:
    for path in ("/", f"/events?token={address.partition('#')[2]}"):
        assert (await asked(address, path, Host=host))[0] in (400, 421)


@pytest.mark.parametrize("origin", ["http://attacker.example", "null", "https://127.0.0.1"])
async def test_a_page_of_another_origin_is_refused(address: str, origin: str) -> None:
    assert (await asked(address, f"/events?token={address.partition('#')[2]}", Origin=origin))[0] == 403


async def test_its_own_origin_and_a_forwarded_port_are_served(address: str) -> None:
    here = address.partition("/#")[0]
    assert (await asked(address, "/", Origin=here))[0] == 200
    assert (await asked(address, "/", Host="localhost:9999", Origin="http://localhost:9999"))[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_nothing_can_be_written(address: str, method: str) -> None:
    assert (await asked(address, "/events", method=method))[0] == 405


@pytest.mark.parametrize("path", ["/../server.py", "/static/dashboard.js", "/page.py", "/index.html%00"])
async def test_no_other_file_is_served(address: str, path: str) -> None:
    assert (await asked(address, path))[0] == 404


def test_what_is_served_is_what_the_sources_make() -> None:
    assert sorted(path.name for path in BUILT.iterdir()) == sorted(FILES)
    assert stale() == []
