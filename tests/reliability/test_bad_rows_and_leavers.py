"""10,000 requests, 1 % with bad rows, 5 % whose callers leave: right answers, own errors, none lost, nothing kept."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.protocol.serving import Served, serving
from tests.reliability import ordeal
from tests.reliability.fates import fated_model, manifest
from tests.reliability.ordeal import Request
from tests.reliability.usage import Usage, connected, family, slots, usage

pytestmark = pytest.mark.slow
CONNECTIONS = 48
ROOM_BYTES = 14 << 20
"""Private memory may move by this much between two looks: what failed requests leave to the cycle collector waits for
its next full round (it rises by up to 12 MiB and falls again). 10,000 requests kept would be twice that."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    models = [fated_model(tmp_path, "m", fixed_ms=1.0, per_row_ms=0.02)]
    with serving(tmp_path, manifest("ordeal", models)) as served:
        yield served


@dataclass(frozen=True, slots=True)
class Holdings:
    """What `serve` holds: per process, and shared memory by file."""

    processes: Mapping[str, Usage]
    slots: Mapping[str, int]


def holdings(served: Served) -> Holdings:
    """Now."""
    pids = family(served.process.pid)
    folder = next(Path("/dev/shm").glob(f"batchwright-{served.process.pid}-*"))
    return Holdings({role: usage(pids[role]) for role in ("sidecar", "runtime")}, slots(folder))


def counted(served: Served) -> Counter[str]:
    """The sidecar's own counters of the model, over all reasons but that a caller left."""
    lines = served.get("/metrics")[2].decode().splitlines()
    split = [line.rsplit(" ", 1) for line in lines if '{model="m",version="1"' in line and "CANCELED" not in line]
    counts: Counter[str] = Counter()
    for name, value in split:
        counts[name.split("{")[0]] += int(float(value))
    return counts


def check_holdings(before: Holdings, after: Holdings) -> None:
    """Nothing has grown."""
    for role, process in after.processes.items():
        was = before.processes[role]
        assert process.pid == was.pid
        assert process.private_bytes - was.private_bytes < ROOM_BYTES
        assert process.files <= was.files
        assert process.threads <= was.threads + 2, "gRPC's own pool moves"
    assert after.slots == before.slots


def check_counters(before: Counter[str], after: Counter[str], asked: Sequence[Request]) -> None:
    """The sidecar counted every request once; only of those who left some may have had their answer or never come."""
    kinds = Counter(request.kind for request in asked)
    bad = kinds["bad row"] + kinds["raising row"] + kinds["misfit"]
    success, failure, cancelled = (
        after[name] - before[name]
        for name in (
            "nv_inference_request_success",
            "nv_inference_request_failure",
            "batchwright_cancelled_requests_total",
        )
    )
    assert after["nv_inference_pending_request_count"] == 0
    assert failure == bad
    assert kinds["good"] <= success <= kinds["good"] + kinds["leaves"]
    assert success + cancelled <= kinds["good"] + kinds["leaves"]
    assert cancelled > kinds["leaves"] / 10, "most who leave at once have not been answered yet"


async def test_ten_thousand_requests(served: Served) -> None:
    await ordeal.run(served.http, served.grpc, list(ordeal.requests(2_000, seed=1)), CONNECTIONS)
    await settled(served)
    before, counters = holdings(served), counted(served)
    asked = list(ordeal.requests(10_000, seed=2))
    tally = await ordeal.run(served.http, served.grpc, asked, CONNECTIONS)
    await settled(served)
    assert tally.wrong == []
    assert tally.answered == Counter(request.kind for request in asked)
    check_counters(counters, counted(served), asked)
    check_holdings(before, holdings(served))


@pytest.mark.soak
async def test_ten_minutes(served: Served) -> None:
    """Memory is looked at every minute: the last look may not be above the second by more than the noise."""
    looks: list[Holdings] = []
    for minute in range(10):
        end, seed = time.monotonic() + 60, minute * 1000
        while time.monotonic() < end:
            seed += 1
            asked = list(ordeal.requests(5_000, seed=seed))
            tally = await ordeal.run(served.http, served.grpc, asked, CONNECTIONS)
            assert tally.wrong == []
            assert tally.answered == Counter(request.kind for request in asked)
        await settled(served)
        looks.append(holdings(served))
        print(minute, looks[-1])
    check_holdings(looks[1], looks[-1])


async def settled(served: Served) -> None:
    """Those who have left are noticed when the event loop comes to it."""
    for _ in range(1200):
        pending = counted(served)["nv_inference_pending_request_count"]
        if not pending and not connected(family(served.process.pid)["sidecar"]):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("callers that have left are still waited for")
