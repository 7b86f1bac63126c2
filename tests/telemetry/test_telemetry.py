"""Method A3 end to end in this process: agents over HTTP, sidecars' devices, and what is queued for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from batchwright_operator.kube.objects import NODE, POD, Raw
from batchwright_operator.kube.times import rfc3339
from batchwright_operator.reconcile.decisions import Key
from batchwright_operator.reconcile.live_state import LiveState, Received, Sample
from batchwright_operator.settings import Settings
from batchwright_operator.telemetry import agents as agent_source
from batchwright_operator.telemetry.agents import AgentSource, parse
from batchwright_operator.telemetry.collector import TelemetryBackground, emulated_samples
from batchwright_worker.agent.exposition import exposition, text
from batchwright_worker.agent.readings import DeviceReading, PodShare
from batchwright_worker.api.messages import DeviceState, SidecarState
from batchwright_worker.api.names import COMPONENT_AGENT, KIND_EMULATED, LABEL_COMPONENT
from tests.placement.placement_objects import NOW, Facts, node, pod

AGENTS = Settings().agent_namespace


class Fixed:
    """An agent's source with given readings."""

    def __init__(self, *readings: DeviceReading) -> None:
        self.readings = readings

    def read(self) -> tuple[DeviceReading, ...]:
        return self.readings


def reading(kind: str = "cpu", device: str = "cpu", busy: float | None = 0.5, age_s: float = 0.0) -> DeviceReading:
    return DeviceReading(kind=kind, device=device, utilization=busy, memory_utilization=0.25, taken_at=NOW - age_s)


def scrape(*readings: DeviceReading) -> str:
    """The response of a real agent."""
    return text(exposition("n", [Fixed(*readings)])).decode()


def http_date(at: float) -> str:
    return format_datetime(datetime.fromtimestamp(at, UTC), usegmt=True)


def test_agent_and_operator_agree_on_the_metrics() -> None:
    found = parse(scrape(reading(), reading("nvidia.com/gpu", "0", 1.0), reading("nvidia.com/gpu", "1", 0.0)), "", NOW)
    assert (found["cpu"].utilization, found["cpu"].memory_utilization) == (0.5, 0.25)
    assert found["nvidia.com/gpu"].utilization == 0.5
    assert [each.id for each in found["nvidia.com/gpu"].devices] == ["0", "1"]


def test_agent_and_operator_agree_on_what_pods_use() -> None:
    used = {
        "": PodShare(utilization=0.25, memory_utilization=0.0),
        "u": PodShare(utilization=0.5, memory_utilization=0.1),
    }
    found = parse(scrape(replace(reading(), pods=used), reading("nvidia.com/gpu", "0", 1.0)), "", NOW)
    assert found["cpu"].pods == {"": (0.25, 0.0), "u": (0.5, 0.1)}
    assert found["nvidia.com/gpu"].pods is None


@pytest.mark.parametrize("skew_s", [-3600.0, 0.0, 3600.0])
def test_age_is_by_the_agents_own_clock(skew_s: float) -> None:
    found = parse(scrape(reading(age_s=20.0 - skew_s)), http_date(NOW + skew_s), NOW)
    assert NOW - found["cpu"].taken_at == pytest.approx(20.0, abs=1)


def test_what_a_device_does_not_report_makes_no_sample() -> None:
    assert parse(scrape(reading("nvidia.com/mig-1g.5gb", "m", None)), "", NOW) == {}


def agent_pod(name: str, ip: str, **status: str) -> Raw:
    return {
        "metadata": {
            "name": f"agent-{name}",
            "namespace": AGENTS,
            "uid": f"a-{name}",
            "labels": {LABEL_COMPONENT: COMPONENT_AGENT},
        },
        "spec": {"nodeName": name},
        "status": {"podIP": ip, "phase": "Running", **status},
    }  # fmt: skip


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def agents(
    session: aiohttp.ClientSession, handler: Handler, *pods: Raw, nodes: list[Raw]
) -> dict[object, Sample]:
    """Reads these agent pods, which all answer by `handler`."""
    app = web.Application()
    app.router.add_get("/metrics", handler)
    async with TestServer(app, host="127.0.0.1") as server:
        assert server.port
        source = AgentSource(Settings(), session, port=server.port, clock=lambda: NOW)
        return dict(await source.read(Facts({POD: list(pods), NODE: nodes})))


def answer(*readings: DeviceReading) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(text=scrape(*readings), headers={"Date": http_date(NOW)})

    return handler


async def test_all_running_agents_are_scraped(session: aiohttp.ClientSession) -> None:
    pods = [
        agent_pod("a", "127.0.0.1"),
        agent_pod("b", "127.0.0.1"),
        agent_pod("c", ""),
        agent_pod("d", "127.0.0.1", phase="Pending"),
    ]
    found = await agents(session, answer(reading()), *pods, nodes=[node("a"), node("b")])
    assert set(found) == {("a", "cpu"), ("b", "cpu")}


async def test_mig_instances_count_for_the_kind_that_the_node_offers(session: aiohttp.ClientSession) -> None:
    readings = [reading("nvidia.com/mig-1g.5gb", "m1", 1.0), reading("nvidia.com/mig-1g.5gb", "m2", 0.0)]
    for offered in ("nvidia.com/gpu", "nvidia.com/mig-1g.5gb", "nvidia.com/mig-1g.5gb.shared"):
        nodes = [node("a", **{offered: "2"})]
        found = await agents(session, answer(*readings), agent_pod("a", "127.0.0.1"), nodes=nodes)
        assert {place: sample.utilization for place, sample in found.items()} == {("a", offered): 0.5}


@pytest.mark.parametrize("how", ["down", "error", "nonsense", "slow", "endless"])
async def test_agents_that_fail_are_left_out(
    how: str, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_source, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(agent_source, "RESPONSE_LIMIT_BYTES", 1000)

    async def handler(request: web.Request) -> web.StreamResponse:
        if how == "slow":
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"# ")
            await asyncio.sleep(1.0)  # longer than the time-out
            return response
        return {"error": web.Response(status=500), "nonsense": web.Response(text="{not metrics"),
                "endless": web.Response(text="# x\n" * 10_000)}[how]  # fmt: skip

    if how == "down":
        source = AgentSource(Settings(), session, port=1, clock=lambda: NOW)
        found = dict(await source.read(Facts({POD: [agent_pod("a", "127.0.0.1")], NODE: [node("a")]})))
    else:
        found = await agents(session, handler, agent_pod("a", "127.0.0.1"), nodes=[node("a")])
    assert found == {}


# --- emulated ----------------------------------------------------------------------------------------


def holder(name: str, *, ready: bool = True) -> Raw:
    raw = pod(name, kind=KIND_EMULATED, nodeName="e", schedulingGates=[])
    raw["status"] = {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}
    return raw


def state(busy: float, used: int, *, at: float = NOW) -> Received[SidecarState]:
    device = DeviceState(kind=KIND_EMULATED, device="0", busy_ratio=busy, memory_used_bytes=used, memory_bytes=100)
    return Received(state=SidecarState(revision=1, time=at, ready=True, models=[], devices=[device]), received_at=at)


@pytest.mark.parametrize(
    ("pods", "sidecars", "expected"),
    [
        ([], {}, (0.0, 0.0)),
        ([holder("p")], {"uid-p": state(0.8, 40)}, (0.4, 0.2)),  # the other device is free: idle
        ([holder("p"), holder("q")], {"uid-p": state(0.8, 40), "uid-q": state(0.4, 0)}, (0.6, 0.2)),
        ([holder("p", ready=False)], {}, (0.0, 0.0)),
        ([holder("p")], {}, None),
        ([holder("p")], {"uid-p": state(0.8, 40, at=NOW - 100)}, None),
    ],
    ids=["free", "one of two", "both", "starting", "silent", "long silent"],
)
def test_emulated_devices_are_what_their_sidecars_say(
    pods: list[Raw], sidecars: dict[str, Received[SidecarState]], expected: tuple[float, float] | None
) -> None:
    samples = emulated_samples([node("e", **{KIND_EMULATED: "2"}), node("plain")], pods, sidecars, NOW)
    got = {place: (each.utilization, each.memory_utilization) for place, each in samples.items()}
    assert got == ({} if expected is None else {("e", KIND_EMULATED): pytest.approx(expected)})


# --- what is told to whom -----------------------------------------------------------------------------


class Told:
    def __init__(self) -> None:
        self.keys: list[Key] = []

    def add(self, key: Key, *, after_s: float = 0.0) -> None:
        self.keys.append(key)


class Steps:
    """A source that gives one answer after the other."""

    def __init__(self, *answers: dict[tuple[str, str], Sample] | Exception) -> None:
        self.answers = list(answers)

    async def read(self, store: object) -> dict[tuple[str, str], Sample]:
        found = self.answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


def cpu(utilization: float, *, age_s: float = 0.0) -> dict[tuple[str, str], Sample]:
    return {("n", "cpu"): Sample(utilization=utilization, memory_utilization=0.0, taken_at=NOW - age_s)}


def background() -> tuple[TelemetryBackground, LiveState]:
    live = LiveState()
    return TelemetryBackground(Settings(), live, aiohttp.ClientSession, clock=lambda: NOW), live


@pytest.mark.parametrize(
    ("gated", "second", "expected"),
    [(True, 0.9, True), (True, 0.52, False), (False, 0.9, False)],
    ids=["moved", "hardly moved", "nobody waits"],
)
async def test_placement_is_told_only_when_it_matters(gated: bool, second: float, expected: bool) -> None:
    telemetry, _ = background()
    pods = [pod("p")] if gated else [pod("p", schedulingGates=[])]
    facts, source = Facts({NODE: [node("n")], POD: pods}), Steps(cpu(0.5, age_s=5), cpu(second))
    await telemetry.refresh(source, facts, Told())
    told = Told()
    await telemetry.refresh(source, facts, told)
    assert (Key(reconciler="placement") in told.keys) == expected


async def test_profile_is_told_when_samples_turn_fresh() -> None:
    telemetry, _ = background()
    facts, told = Facts({NODE: [node("n")]}), []
    source = Steps(cpu(0.5, age_s=40), cpu(0.5), cpu(0.5))
    for _ in range(3):
        queue = Told()
        await telemetry.refresh(source, facts, queue)
        told.append(Key(reconciler="profiles", name="n") in queue.keys)
    assert told == [True, True, False]


async def test_failing_source_leaves_old_samples_and_gone_nodes_take_theirs_along() -> None:
    telemetry, live = background()
    facts, source = Facts({NODE: [node("n")]}), Steps(cpu(0.5), OSError("down"), OSError("down"))
    await telemetry.refresh(source, facts, Told())
    await telemetry.refresh(source, facts, Told())
    assert live.newest == cpu(0.5)
    assert live.samples["n", "cpu"].utilization == 0.5
    facts.objects[NODE] = []
    await telemetry.refresh(source, facts, Told())
    assert live.samples == live.newest == {}


async def test_pods_are_placed_by_what_lasts_and_benchmarked_by_what_is() -> None:
    """A node that is at 100 % by a Job which has just begun, and by one that is gone."""
    telemetry, live = background()
    job = pod("job", restartPolicy="Never", nodeName="n", schedulingGates=[])
    job["status"] = {"phase": "Running", "startTime": rfc3339(NOW - 20)}
    facts = Facts({NODE: [node("n")], POD: [job, pod("gone", nodeName="n", schedulingGates=[])]})
    ((at, sample),) = cpu(1.0, age_s=5).items()
    parts = {"uid-job": (0.6, 0.0), "uid-gone": (0.25, 0.0), "static": (0.1, 0.0), "": (0.05, 0.0)}
    source = Steps({at: replace(sample, pods=parts)}, {})
    await telemetry.refresh(source, facts, Told())
    assert live.samples[at].utilization == pytest.approx(0.35)
    facts.objects[POD] = [job]
    await telemetry.refresh(source, facts, Told())
    assert (live.samples[at].utilization, live.samples[at].left_out) == pytest.approx((0.1, 0.9))
    assert live.newest[at].utilization == 1.0
