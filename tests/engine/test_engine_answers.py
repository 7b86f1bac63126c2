"""What callers get: right rows, own errors, one answer each, whatever happens around them."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from batchwright_worker.api.model import Padding
from batchwright_worker.inference.errors import (
    BadInput,
    DeadlineExceeded,
    ModelFailed,
    ModelUnavailable,
    QueueFull,
    Refused,
    Stopping,
    UnknownModel,
)
from batchwright_worker.inference.requests import InferRequest
from tests.engine.devices import BAD, BUSY, POISON, FakeDevice, engine_of, model, request
from tests.engine.virtual import run


def test_rows_come_back_to_their_callers() -> None:
    async def scenario() -> None:
        device = FakeDevice()
        engine = engine_of([model(max_size=8, initial_size=8)], device)
        await engine.start()
        calls = [engine.infer(request(engine, *[float(i)] * (1 + i % 3))) for i in range(20)]
        results = await asyncio.gather(*calls)
        for i, result in enumerate(results):
            rows = 1 + i % 3
            assert np.array_equal(result.outputs["y"], [[10.0 * i, 10.0 * row] for row in range(rows)])
        assert max(rows for _, rows in device.runs) == 8
        await engine.close()

    run(scenario())


def test_a_large_request_is_split_and_answered_once() -> None:
    async def scenario() -> None:
        device = FakeDevice()
        engine = engine_of([model(max_size=4, initial_size=4)], device)
        await engine.start()
        device.runs.clear()
        result = await engine.infer(request(engine, *range(10)))
        assert np.array_equal(result.outputs["y"][:, 0], np.arange(10) * 10)
        assert device.runs == [("m", 4), ("m", 4), ("m", 2)]
        assert result.batch_size == 4
        assert result.queue_ms == pytest.approx(0)
        assert result.run_ms == pytest.approx(18 + 18 + 14)
        await engine.close()

    run(scenario())


def test_a_bad_row_fails_alone() -> None:
    async def scenario() -> None:
        engine = engine_of([model(max_size=32, initial_size=32)], FakeDevice())
        await engine.start()
        calls = [engine.infer(request(engine, BAD if i in (3, 17) else float(i))) for i in range(32)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for i, answer in enumerate(answers):
            if i in (3, 17):
                assert isinstance(answer, ModelFailed)
                assert "a row is bad" in str(answer)
            else:
                assert not isinstance(answer, BaseException)
                assert answer.outputs["y"][0, 0] == 10 * i
        await engine.close()

    run(scenario())


def test_the_error_names_the_bad_row_of_a_request() -> None:
    async def scenario() -> None:
        engine = engine_of([model(initial_size=8)], FakeDevice())
        await engine.start()
        with pytest.raises(ModelFailed, match="failed on row 2: a row is bad") as failure:
            await engine.infer(request(engine, 1, 2, BAD, 4))
        assert failure.value.row == 2
        await engine.close()

    run(scenario())


def test_a_batch_that_a_server_turns_away_is_refused_and_not_split() -> None:
    async def scenario() -> None:
        device = FakeDevice()
        engine = engine_of([model(max_size=8, initial_size=8)], device)
        await engine.start()
        device.runs.clear()
        calls = [engine.infer(request(engine, BUSY if i == 3 else float(i))) for i in range(8)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(answer) for answer in answers] == [ModelUnavailable] * 8
        assert {(str(each), each.retry_after_s) for each in answers if isinstance(each, ModelUnavailable)} == {
            ("model m: the queue is full", 4.0)
        }
        assert device.runs == [("m", 8)]
        assert engine.counters["m"].refused["Unavailable"] == 8
        assert engine.counters["m"].failed == 0
        result = await engine.infer(request(engine, 7.0))
        assert result.outputs["y"][0, 0] == 70
        await engine.close()

    run(scenario())


def test_a_model_that_always_raises_is_not_tried_row_by_row() -> None:
    async def scenario() -> None:
        device = FakeDevice()
        engine = engine_of([model(max_size=256, initial_size=256)], device)
        await engine.start()
        device.runs.clear()
        calls = [engine.infer(request(engine, BAD)) for _ in range(256)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, ModelFailed) for answer in answers)
        assert len(device.runs) < 120
        await engine.close()

    run(scenario())


def test_out_of_memory_splits_the_batch_and_is_not_met_again() -> None:
    async def scenario() -> None:
        device = FakeDevice()
        engine = engine_of([model(initial_size=32)], device)
        await engine.start()
        device.most_rows = 10
        device.runs.clear()
        for _ in range(2):
            calls = [engine.infer(request(engine, float(i))) for i in range(32)]
            results = await asyncio.gather(*calls)
            assert [result.outputs["y"][0, 0] for result in results] == [10.0 * i for i in range(32)]
        assert [rows for _, rows in device.runs if rows > 10] == [32, 16]
        await engine.close()

    run(scenario())


def test_a_vanished_callers_rows_are_skipped() -> None:
    async def scenario() -> None:
        device = FakeDevice()
        engine = engine_of([model(initial_size=4)], device)
        await engine.start()
        first = asyncio.ensure_future(engine.infer(request(engine, 1)))
        await asyncio.sleep(0.001)
        waiting = [asyncio.ensure_future(engine.infer(request(engine, float(i)))) for i in range(2, 8)]
        await asyncio.sleep(0.001)
        for gone in waiting[:3]:
            gone.cancel()
        device.runs.clear()
        results = await asyncio.gather(first, *waiting[3:])
        assert [result.outputs["y"][0, 0] for result in results] == [10, 50, 60, 70]
        assert device.runs == [("m", 3)]
        assert engine.counters["m"].cancelled == 3
        assert engine.counters["m"].pending == 0
        assert not engine.requests.by_key
        await engine.close()

    run(scenario())


def test_a_lost_runtime_fails_nobody() -> None:
    async def scenario() -> None:
        device = FakeDevice()
        engine = engine_of([model(initial_size=4)], device)
        await engine.start()
        calls = [asyncio.ensure_future(engine.infer(request(engine, float(i)))) for i in range(10)]
        await asyncio.sleep(0.005)
        device.die()
        results = await asyncio.gather(*calls)
        assert [result.outputs["y"][0, 0] for result in results] == [10.0 * i for i in range(10)]
        assert device.loads == ["m", "m"]
        assert device.violations == []
        assert engine.counters["m"].retried == 1
        await engine.close()

    run(scenario())


def test_a_request_that_kills_two_runtimes_fails() -> None:
    async def scenario() -> None:
        device = FakeDevice()
        engine = engine_of([model(initial_size=1, max_size=1)], device)
        await engine.start()
        poison = asyncio.ensure_future(engine.infer(request(engine, POISON)))
        good = [asyncio.ensure_future(engine.infer(request(engine, float(i)))) for i in range(3)]
        with pytest.raises(ModelFailed, match="quarantined: 2 runtimes"):
            await poison
        results = await asyncio.gather(*good)
        assert [result.outputs["y"][0, 0] for result in results] == [0, 10, 20]
        await engine.close()

    run(scenario())


@pytest.mark.parametrize(
    ("inputs", "rows", "outputs", "message"),
    [
        ({}, 1, (), "input 'x' of model m is missing"),
        ({"x": np.zeros((1, 2), np.float32), "z": np.zeros((1, 2))}, 1, (), "no input 'z'"),
        ({"x": np.zeros((1, 3), np.float32)}, 1, (), r"must be FP32 \[-1, 2\] with 1 rows; it is FP32 \[1, 3\]"),
        ({"x": np.zeros((1, 2), np.float64)}, 1, (), r"it is FP64 \[1, 2\]"),
        ({"x": np.zeros((1, 2), np.float32)}, 1, ("w",), "no output 'w'; it gives \\['y'\\]"),
    ],
)
def test_bad_input_names_what_is_wanted_and_given(
    inputs: dict[str, np.ndarray], rows: int, outputs: tuple[str, ...], message: str
) -> None:
    async def scenario() -> None:
        engine = engine_of([model()], FakeDevice())
        await engine.start()
        asked = InferRequest(model="m", inputs=inputs, rows=rows, arrival=engine.clock(), outputs=outputs)
        with pytest.raises(BadInput, match=message):
            await engine.infer(asked)
        await engine.close()

    run(scenario())


def test_an_unknown_model_is_named_with_those_that_exist() -> None:
    async def scenario() -> None:
        engine = engine_of([model("a"), model("b")], FakeDevice())
        await engine.start()
        with pytest.raises(UnknownModel, match=r"unknown model: 'c' is not found; there are \['a', 'b'\]"):
            await engine.infer(request(engine, 1, model_name="c"))
        await engine.close()

    run(scenario())


def test_a_full_queue_refuses_with_a_wait() -> None:
    async def scenario() -> None:
        engine = engine_of([model(initial_size=1, max_size=1, max_queue_length=3)], FakeDevice())
        await engine.start()
        calls = [asyncio.ensure_future(engine.infer(request(engine, float(i)))) for i in range(5)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        full = [answer for answer in answers if isinstance(answer, QueueFull)]
        assert len(full) == 2
        assert full[0].retry_after_s is not None
        assert full[0].retry_after_header == "1"
        assert "maxQueueLength is 3" in str(full[0])
        await engine.close()

    run(scenario())


def test_what_cannot_be_in_time_is_refused_at_once() -> None:
    async def scenario() -> None:
        engine = engine_of([model(latency=100)], FakeDevice())
        await engine.start()
        calls = [asyncio.ensure_future(engine.infer(request(engine, float(i)))) for i in range(200)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, Refused)]
        good = [answer for answer in answers if not isinstance(answer, BaseException)]
        assert len(refused) + len(good) == 200
        assert 20 <= len(good) <= 45
        assert all(answer.queue_ms + answer.run_ms <= 100 + 1e-6 for answer in good)
        assert "latency target of m is 100 ms" in str(refused[0])
        assert engine.counters["m"].refused["LatencyTarget"] == len(refused)
        await engine.close()

    run(scenario())


def test_a_deadline_of_the_callers_own_holds() -> None:
    async def scenario() -> None:
        engine = engine_of([model(initial_size=1, max_size=1)], FakeDevice())
        await engine.start()
        calls = [engine.infer(request(engine, float(i), deadline=engine.clock() + 0.05)) for i in range(10)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        good = [answer for answer in answers if not isinstance(answer, BaseException)]
        assert len(good) == 4
        assert sum(isinstance(answer, DeadlineExceeded) for answer in answers) == 6
        await engine.close()

    run(scenario())


def test_draining_answers_everyone() -> None:
    async def scenario() -> None:
        engine = engine_of([model(initial_size=1, max_size=1)], FakeDevice())
        await engine.start()
        calls = [asyncio.ensure_future(engine.infer(request(engine, float(i)))) for i in range(10)]
        await asyncio.sleep(0)
        await engine.drain(0.05)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(answer, Stopping) for answer in answers) == 6
        assert sum(not isinstance(answer, BaseException) for answer in answers) == 4
        assert not engine.ready()
        with pytest.raises(Stopping, match="ask another"):
            await engine.infer(request(engine, 1))
        await engine.close()

    run(scenario())


def test_shapes_share_a_batch_within_their_bucket_only() -> None:
    async def scenario() -> None:
        device = FakeDevice(variable=True)
        padding = Padding(dimension=0, multiple=8, value="-1")
        engine = engine_of([model(initial_size=8, padding=padding)], device)
        await engine.start()
        device.runs.clear()
        widths = [3, 8, 9, 16, 5]
        calls = [
            engine.infer(
                InferRequest(model="m", inputs={"x": np.ones((1, width), np.float32)}, rows=1, arrival=engine.clock())
            )
            for width in widths
        ]
        results = await asyncio.gather(*calls)
        assert sorted(rows for _, rows in device.runs) == [2, 3]
        assert results[0].outputs["y"].tolist() == [[10.0] * 3 + [-10.0] * 5]
        await engine.close()

    run(scenario())
