"""What pages are told: applied in order, the events give the newest overview, and its history."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.dashboard.feed import Feed
from batchwright_worker.dashboard.history import MOST_SERIES, SAMPLES, History
from batchwright_worker.dashboard.overview import (
    DeploymentView,
    JobView,
    Overview,
    ProcessorView,
    ServedModelView,
)
from batchwright_worker.dashboard.page import policy, snapshot
from batchwright_worker.dashboard.updates import SECTIONS, encoded, update


def processor(name: str, utilization: float) -> ProcessorView:
    return ProcessorView(id=name, node=name, kind="cpu", level="ok", utilization=utilization)


def deployment(name: str, batch: int) -> DeploymentView:
    model = ServedModelView(name="m", batch_size=batch, p95=5.0, queue=2, throughput=10.0)
    return DeploymentView(id=f"ns/{name}", namespace="ns", name=name, level="ok", models=[model])


def seen(time: float = 1.0, **more: Any) -> Overview:
    return Overview(source="cluster", title="t", time=time, level="ok", headline="All is well", **more)


def applied(page: dict[str, Any], data: bytes) -> dict[str, Any]:
    """As the page does it (worker/page/src/state.js)."""
    event = json.loads(data)
    page = {} if event.get("reset") else {name: dict(items) for name, items in page.items()}
    if "head" in event:
        page["head"] = event["head"]
    for section in SECTIONS:
        items = page.setdefault(section, {})
        items.update(event.get("set", {}).get(section, {}))
        for name in event.get("drop", {}).get(section, ()):
            del items[name]
    return page


def whole(overview: Overview) -> dict[str, Any]:
    return applied({}, update(None, encoded(overview), overview.time))


VIEWS = st.lists(
    st.dictionaries(st.sampled_from("abc"), st.tuples(st.floats(0, 1), st.integers(1, 9)), max_size=3), max_size=6
)


@given(VIEWS)
def test_updates_give_the_newest_overview(views: list[dict[str, tuple[float, int]]]) -> None:
    page: dict[str, Any] = {}
    before = None
    for each in views:
        overview = seen(
            processors=[processor(name, busy) for name, (busy, _) in each.items()],
            deployments=[deployment(name, batch) for name, (_, batch) in each.items()],
            notes=[str(len(each))],
        )
        after = encoded(overview)
        page = applied(page, update(before, after, overview.time))
        before = after
        assert page == whole(overview)


def test_what_did_not_change_does_not_travel() -> None:
    many = [processor(f"n{n}", 0.5) for n in range(1000)]
    first, second = encoded(seen(processors=many)), encoded(seen(processors=[processor("n0", 0.7), *many[1:]]))
    told = json.loads(update(first, second, 2.0))
    assert list(told) == ["time", "set"]
    assert list(told["set"]["processors"]) == ["n0"]
    assert len(update(first, second, 2.0)) < 300


def test_history_has_a_column_for_every_field_and_a_row_for_every_time() -> None:
    history = History()
    history.add(seen(1.0, deployments=[deployment("a", 4)]))
    history.add(seen(2.0, deployments=[deployment("a", 8), deployment("b", 1)]))
    told = history.as_json()
    assert told["times"] == [1.0, 2.0]
    assert told["series"]["model:ns/a/m"] == [[4, 8], [5.0, 5.0], [2, 2], [10.0, 10.0]]
    assert told["series"]["model:ns/b/m"][0] == [None, 1]
    assert told["series"]["system"][2] == [10.0, 20.0]


def test_history_is_bounded() -> None:
    history = History()
    many = [deployment(f"d{n}", 1) for n in range(MOST_SERIES + 50)]
    jobs = [JobView(id="ns/j", namespace="ns", name="j", level="busy", total=9, succeeded=3)]
    for n in range(SAMPLES + 5):
        history.add(seen(float(n), deployments=many if n == SAMPLES else [], jobs=jobs))
    told = history.as_json()
    assert len(told["times"]) == SAMPLES
    assert len(told["series"]) == MOST_SERIES + 1
    assert told["series"]["job:ns/j"][0][0] == 3.0


async def test_a_page_is_told_everything_once_and_then_what_changes() -> None:
    feed = Feed()
    feed.publish(seen(processors=[processor("a", 0.1)]))
    feed.sample()
    events = feed.events(pace_s=0.0, silence_s=5.0)
    assert (await anext(events)).startswith(b"event: history\ndata: {")
    page = applied({}, data(await anext(events)))
    feed.publish(seen(processors=[processor("a", 0.1), processor("b", 0.2)]))
    feed.sample()
    news = data(await anext(events))
    assert list(json.loads(news)["set"]["processors"]) == ["b"]
    assert set(applied(page, news)["processors"]) == {"a", "b"}
    assert json.loads(data(await anext(events)))["values"]["system"][0] == 0.15000000000000002
    await events.aclose()


async def test_a_slow_page_gets_several_changes_as_one() -> None:
    feed = Feed()
    feed.publish(seen())
    events = feed.events(pace_s=0.0, silence_s=5.0)
    first = [await anext(events), await anext(events)]
    for n in range(50):
        feed.publish(seen(processors=[processor("a", n / 100)]))
    told = json.loads(data(await anext(events)))
    assert told["set"]["processors"]["a"]["utilization"] == 0.49
    waits = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0.01)
    assert not waits.done()
    waits.cancel()
    assert len(first) == 2


async def test_silence_is_told() -> None:
    events = Feed().events(pace_s=0.0, silence_s=0.01)
    await anext(events)
    assert await anext(events) == b": still here\n\n"


def data(event: bytes) -> bytes:
    _, _, text = event.partition(b"\ndata: ")
    return text.strip()


def test_a_snapshot_is_one_file_that_runs_no_foreign_text() -> None:
    sly = "</script><script>alert(1)</script>"
    text = snapshot(msgspec.structs.replace(seen(), title=sly), History())
    assert sly not in text
    assert "\\u003c/script>" in text
    assert "src=" not in text.replace("data:", "")
    assert 'http-equiv="Content-Security-Policy" content="default-src \'none\'' in text
    assert text.count("<script") == 2


def test_the_policy_allows_nothing_but_the_pages_own_files() -> None:
    assert "unsafe" not in policy()
    assert policy().startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'")
