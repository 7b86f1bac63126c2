"""`controller: Literal` and `evict: LeastRecentlyUsed` in the running engine, step by step against methods.md; rows of
requests that have not ended; models without a warm-up."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from batchwright_worker.api.messages import HoldState
from batchwright_worker.engine.engine import Engine
from batchwright_worker.inference.requests import InferRequest
from batchwright_worker.mann_kendall import mann_kendall
from batchwright_worker.scheduler.batch_size.tuning import TuningDecision
from batchwright_worker.scheduler.scheduler import Scheduler
from batchwright_worker.scheduler.window_counts import WindowCounts
from tests.engine.devices import FakeDevice, engine_of, model, request
from tests.engine.virtual import run


@dataclass
class Watched(Scheduler):
    """Keeps every window's decision."""

    decisions: list[TuningDecision] = field(default_factory=list)

    def close_window(self, model: str, now: float) -> tuple[TuningDecision, WindowCounts]:
        decision, counts = super().close_window(model, now)
        self.decisions.append(decision)
        return decision, counts


def without_admission(engine: Engine) -> None:
    """As published: nothing keeps the latency within its target but the batch size."""
    served = engine.scheduler.models["m"]
    served.config = replace(served.config, admits_all=True)


def large(engine: Engine, rows: int) -> InferRequest:
    return InferRequest(
        model="m", inputs={"x": np.zeros((rows, 2), dtype=np.float32)}, rows=rows, arrival=engine.clock()
    )


async def call_for_ever(engine: Engine, callers: int, seconds: float) -> None:
    """A closed loop of callers, each with one request of one row in flight."""
    end = engine.clock() + seconds

    async def calling() -> None:
        while engine.clock() < end:
            await engine.infer(request(engine, 1.0))

    await asyncio.gather(*(calling() for _ in range(callers)))


def test_literal_does_what_a6_to_a8_say_window_by_window() -> None:
    """Few callers, then too many; every window is decided again from its own p95 by the method's text."""

    async def scenario() -> list[TuningDecision]:
        scheduler = Watched()
        described = model(latency=100, throughput=300, initial_size=12, controller="Literal", max_size=40)
        engine = engine_of([described], FakeDevice(), scheduler=scheduler)
        await engine.start()
        without_admission(engine)
        await call_for_ever(engine, 24, 12)
        await call_for_ever(engine, 60, 12)
        await engine.close()
        return scheduler.decisions

    decisions = run(scenario())
    assert len(decisions) >= 20
    wants: list[int] = []
    for decision in decisions:
        latency_s, size = decision.window.latency_s, decision.previous
        throughput = size / latency_s
        if latency_s <= 0.1 and throughput >= 300:
            want = size
        else:
            want = max(1, min(40, size + 1 if latency_s < 0.1 else size - 1))
        wants = [*wants, want][-8:]
        goes = want == size or len(wants) < 4 or mann_kendall(wants).z * (want - size) > 0
        assert decision.size == (want if goes else size), decision.message
        assert decision.published_throughput == throughput
    assert {decision.rule for decision in decisions} >= {"Step", "StopRule", "TrendGuard"}
    steps = {decision.size - decision.previous for decision in decisions}
    assert steps == {-1, 0, 1}


def test_the_plain_rule_is_selectable_and_spirals_as_predicted() -> None:
    """64 callers ask for more than the target allows: each step down makes the latency worse."""

    async def scenario() -> None:
        described = model(latency=100, initial_size=20, controller="Literal", max_queue_length=1000)
        engine = engine_of([described], FakeDevice())
        await engine.start()
        without_admission(engine)
        await call_for_ever(engine, 64, 12)
        assert engine.snapshot().models[0].batch_size < 12
        await engine.close()

    run(scenario())


def test_the_least_recently_used_model_makes_room_where_that_is_asked_for() -> None:
    async def scenario(eviction: str) -> list[str]:
        device = FakeDevice(total_bytes=200)
        engine = engine_of([model(name) for name in "abc"], device, scheduler=Scheduler(eviction=eviction))  # type: ignore[arg-type]
        await engine.start()
        for name in "ab":
            await engine.infer(request(engine, 1.0, model_name=name))
        for _ in range(30):
            await engine.infer(request(engine, 1.0, model_name="a"))
        await engine.infer(request(engine, 1.0, model_name="b"))
        device.unloads.clear()
        await engine.infer(request(engine, 1.0, model_name="c"))
        await engine.close()
        return device.unloads

    assert run(scenario("LeastRecentlyUsed")) == ["a"]
    assert run(scenario("LeastWorth")) == ["b"]


def test_a_large_request_to_a_model_of_free_shape_soon_runs_in_full_batches() -> None:
    """It was served in batches of 1 until it had ended: no window saw a request end."""

    async def scenario() -> None:
        device = FakeDevice(variable=True)
        engine = engine_of([model()], device)
        await engine.start()
        device.runs.clear()
        await engine.infer(large(engine, 6000))
        assert engine.snapshot().models[0].batch_size == 32
        sizes = [rows for _, rows in device.runs]
        assert sizes[5] >= 16
        assert sum(sizes) / len(sizes) > 25
        await engine.close()

    run(scenario())


def test_rows_count_in_a_window_whether_their_request_has_ended_or_not() -> None:
    async def scenario() -> None:
        scheduler = Watched()
        described = model(controller="MannKendall", initial_size=4)
        engine = engine_of([described], FakeDevice(variable=True), scheduler=scheduler)
        await engine.start()
        await engine.infer(large(engine, 3000))
        early = scheduler.decisions[:3]
        assert [decision.reason for decision in early] == ["RowsWaiting"] * 3
        assert [decision.size for decision in early] == [5, 6, 7]
        assert early[0].window.served > 200
        assert early[0].window.requests == 0
        await engine.close()

    run(scenario())


def test_a_batch_longer_than_a_window_is_no_window_without_requests() -> None:
    async def scenario() -> None:
        scheduler = Watched()
        engine = engine_of([model(initial_size=4)], FakeDevice(variable=True, fixed_s=2.5), scheduler=scheduler)
        await engine.start()
        await engine.infer(request(engine, 1.0))
        assert [decision.reason for decision in scheduler.decisions] == ["NothingEnded", "NothingEnded"]
        await asyncio.sleep(3)
        assert [decision.window.requests for decision in scheduler.decisions] == [0, 0, 1, 0]
        assert not engine.windows.timers
        await engine.close()

    run(scenario())


def test_the_state_tells_what_is_wanted_why_it_is_held_and_what_bounds_a_batch() -> None:
    async def scenario() -> None:
        described = model(latency=100, throughput=150, initial_size=4, max_size=4, window_milliseconds=200)
        engine = engine_of([described], FakeDevice())
        await engine.start()
        told = engine.snapshot().models[0].tuning
        assert told is not None
        assert (told.rule, told.reason, told.proposed_size) == ("FirstSize", "Initial", 4)
        await call_for_ever(engine, 12, 2)
        shown = engine.snapshot().models[0]
        told = shown.tuning
        assert told is not None
        assert (told.controller, told.rule, told.reason) == ("Auto", "StopRule", "AtMaximum")
        assert told.usually == HoldState(reason="AtMaximum", rule="StopRule", bound_by="Size", cap=4)
        assert told.target_milliseconds == 100
        assert told.target_throughput == 150
        assert told.p95_milliseconds == pytest.approx(3 * 18)
        assert told.published_throughput == pytest.approx(4 / 0.054, rel=0.01)
        assert told.possible_throughput == pytest.approx(4 / 0.018, rel=0.01)
        assert told.fit is not None
        assert told.fit.fixed_milliseconds + 4 * told.fit.per_row_milliseconds == pytest.approx(18)
        assert (told.bounds.cap, told.bounds.bound_by) == (4, "Size")
        assert shown.latency_target_met is True
        await engine.close()

    run(scenario())


def test_without_a_latency_target_none_is_met() -> None:
    async def scenario() -> None:
        engine = engine_of([model(throughput=10)], FakeDevice())
        await engine.start()
        await call_for_ever(engine, 4, 2)
        assert engine.snapshot().models[0].latency_target_met is None
        await engine.close()

    run(scenario())


def test_what_really_bounds_batches_is_named() -> None:
    """20 rows are the tuned size; 300 free bytes at 50 a row hold 6; in half of 40 ms the device runs 4."""

    async def scenario(total_bytes: int, latency: int | None) -> tuple[int, str]:
        device = FakeDevice(total_bytes=total_bytes, bytes_per_row=50)
        engine = engine_of([model(initial_size=20, latency=latency, controller="MannKendall")], device)
        await engine.start()
        await call_for_ever(engine, 2, 2)
        told = engine.snapshot().models[0].tuning
        assert told is not None
        await engine.close()
        return told.bounds.cap, told.bounds.bound_by

    assert run(scenario(400, None)) == (6, "Memory")
    cap, bound_by = run(scenario(0, 40))
    assert (cap <= 4, bound_by) == (True, "InTime")
