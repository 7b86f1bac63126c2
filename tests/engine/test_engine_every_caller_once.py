"""Whatever happens in whatever order (callers that leave, bad rows, deaths, unloads, draining), every caller gets
exactly one answer, and it is the right one. Hypothesis writes the stories; time is virtual."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from batchwright_worker.engine.engine import Engine
from batchwright_worker.inference.errors import InferenceError, ModelFailed
from batchwright_worker.inference.requests import InferRequest, InferResult
from batchwright_worker.inference.runtime import RuntimeTrouble
from tests.engine.devices import BAD, FakeDevice, engine_of, model, request
from tests.engine.virtual import run

NAMES = ["a", "b", "c"]

steps = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from(NAMES), st.integers(1, 7)),
        st.tuples(st.just("ask"), st.sampled_from(NAMES), st.integers(1, 7)),
        st.tuples(st.just("ask first"), st.sampled_from(NAMES), st.integers(1, 7)),
        st.tuples(st.just("ask much"), st.sampled_from(NAMES), st.integers(8, 40)),
        st.tuples(st.just("ask bad"), st.sampled_from(NAMES), st.integers(1, 4)),
        st.tuples(st.just("ask in a hurry"), st.sampled_from(NAMES), st.integers(1, 4)),
        st.tuples(st.just("leave"), st.just(""), st.integers(0, 30)),
        st.tuples(st.just("wait"), st.just(""), st.integers(1, 40)),
        st.tuples(st.just("die"), st.just(""), st.integers(0, 1)),
        st.tuples(st.just("tight"), st.just(""), st.integers(1, 8)),
        st.tuples(st.just("unload"), st.sampled_from(NAMES), st.just(0)),
        st.tuples(st.just("load"), st.sampled_from(NAMES), st.just(0)),
    ),
    max_size=40,
)


class Story:
    """Plays the steps against an engine on two devices that hold two of the three models each."""

    def __init__(self) -> None:
        self.devices = [
            FakeDevice(device=f"runtime-{i}", total_bytes=230, bytes_per_row=1, overlaps_loads=False) for i in range(2)
        ]
        self.engine: Engine
        self.asked: list[tuple[InferRequest, asyncio.Task[InferResult], bool]] = []
        self.left: set[int] = set()
        self.errands: list[asyncio.Task[None]] = []

    async def play(self, story: list[tuple[str, str, int]]) -> None:
        # In `b`'s queue there is room for few, so that higher priorities displace lower ones.
        models = [
            model(
                name,
                initial_size=4,
                latency=200 if name == "c" else None,
                max_queue_length=12 if name == "b" else 10_000,
            )
            for name in NAMES
        ]
        self.engine = engine_of(models, *self.devices)
        await self.engine.start()
        for what, name, number in story:
            await self.step(what, name, number)
        for device in self.devices:
            device.most_rows = 1 << 30
        await self.engine.drain(120)
        await asyncio.gather(*(task for _, task, _ in self.asked), *self.errands, return_exceptions=True)
        self.check()
        await self.engine.close()

    async def step(self, what: str, name: str, number: int) -> None:
        match what:
            case "ask" | "ask first" | "ask much" | "ask bad" | "ask in a hurry":
                values = [float(i + 1) for i in range(number)]
                if what == "ask bad":
                    values[-1] = BAD
                deadline = self.engine.clock() + 0.04 if what == "ask in a hurry" else None
                wanted = request(self.engine, *values, model_name=name, deadline=deadline, priority=what == "ask first")
                self.asked.append((wanted, asyncio.ensure_future(self.engine.infer(wanted)), what == "ask bad"))
            case "leave":
                if number < len(self.asked):
                    self.left.add(number)
                    self.asked[number][1].cancel()
            case "wait":
                await asyncio.sleep(number / 1000)
            case "die":
                self.devices[number].die()
            case "tight":
                for device in self.devices:
                    device.most_rows = number
            case "unload":
                self.errands.append(asyncio.ensure_future(self.engine.unload(name)))
            case "load":
                self.errands.append(asyncio.ensure_future(self.engine.load(name)))

    def check(self) -> None:
        for number, (wanted, task, bad) in enumerate(self.asked):
            assert task.done(), f"request {number} was never answered"
            if task.cancelled():
                assert number in self.left
                continue
            error = task.exception()
            if error is None:
                assert not bad
                assert (task.result().outputs["y"] == wanted.inputs["x"] * 10).all()
            else:
                assert isinstance(error, InferenceError)
                assert bad or not isinstance(error, ModelFailed) or "lost" in str(error)
        for errand in self.errands:
            trouble = errand.exception()
            assert trouble is None or isinstance(trouble, InferenceError | RuntimeTrouble)
        assert [device.violations for device in self.devices] == [[], []]
        assert not self.engine.requests.by_key
        assert all(served.queue.rows == 0 for served in self.engine.scheduler.models.values())
        assert all(counters.pending == 0 for counters in self.engine.counters.values())


@settings(max_examples=150, deadline=None)
@given(steps)
def test_every_caller_is_answered_exactly_once(story: list[tuple[str, str, int]]) -> None:
    run(Story().play(story))
