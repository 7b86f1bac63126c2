"""Two batches in flight on a device: the order of copies and runs, buffers, graphs. `CpuDevice` stands for CUDA; what
it cannot show (that streams overlap, that graphs are faster) e2e/bench/gpu/serving.py shows on a device."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchwright_worker.backends.base import OutOfDeviceMemoryError, Overlapping
from batchwright_worker.inference.runtime import TensorSpec
from batchwright_worker.runtime.in_flight import BatchesInFlight
from batchwright_worker.sidecar.runtimes.client import RuntimeClient
from tests.runtime.rig import file_source, settings, spec, write_script

torch = pytest.importorskip("torch")
save_file = pytest.importorskip("safetensors.torch").save_file
pytestmark = pytest.mark.slow
"""Importing torch takes seconds."""

X = TensorSpec(name="x", datatype="FP32", shape=(3,))
WORDS = TensorSpec(name="x", datatype="FP32", shape=(-1,))
Y = TensorSpec(name="y", datatype="FP32", shape=(3,))


class CpuDevice:
    """Work is done when it is queued; the log has the stream. Waiting for an event ends when `ended` is set."""

    def __init__(self) -> None:
        self.handle = torch.device("cpu")
        self.log: list[str] = []
        self.ended = threading.Event()
        self.ended.set()
        self.awaited: list[Any] = []
        self.captures = 0
        self.trims = 0
        self.refuses_capture = False

    def pinned(self, like: Any) -> Any:
        self.log.append(f"pinned {list(like.shape)}")
        return torch.empty(like.shape, dtype=like.dtype)

    @contextlib.contextmanager
    def on(self, stream: str) -> Iterator[None]:
        self.log.append(stream)
        yield

    def record(self, stream: str) -> str:
        return f"the event of {stream}"

    def wait_event(self, stream: str, event: Any) -> None:
        self.log.append(f"{stream} waits for {event}")

    def record_stream(self, tensor: Any, stream: str) -> None:
        pass

    def wait(self, event: Any) -> None:
        self.awaited.append(event)
        assert self.ended.wait(60)

    def capture(self, call: Callable[..., Sequence[Any]], inputs: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
        if self.refuses_capture:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.captures += 1
        outputs = [output.clone() for output in call(*inputs)]

        def replay() -> None:
            for target, output in zip(outputs, call(*inputs), strict=True):
                target.copy_(output)

        return replay, outputs

    def empty_cache(self) -> None:
        self.trims += 1


def model(call: Any = lambda x: 2 * x, device: CpuDevice | None = None, spec: TensorSpec = X, piece: int = 0) -> Any:
    from batchwright_worker.backends.torch_device import DeviceModel

    return DeviceModel(call, [spec], [Y], device or CpuDevice(), piece)


def rows(count: int, offset: float = 0.0, width: int = 3) -> np.ndarray:
    return np.arange(count * width, dtype=np.float32).reshape(count, width) + offset


def test_each_stream_follows_the_one_before() -> None:
    device = CpuDevice()
    made = model(device=device)
    assert isinstance(made, Overlapping)
    np.testing.assert_array_equal(made.run({"x": rows(2)}, 2)["y"], 2 * rows(2))
    order = [entry for entry in device.log if not entry.startswith("pinned")]
    assert order == ["in", "compute waits for the event of in", "compute", "out waits for the event of compute", "out"]


def test_after_an_error_buffers_are_free_once_copies_and_kernels_that_read_them_have_ended() -> None:
    """C14."""

    def fails(_x: Any) -> Any:
        raise ValueError("no such shape")

    device = CpuDevice()
    made = model(fails, device)
    device.awaited.clear()
    with pytest.raises(ValueError, match="no such shape"):
        made.begin({"x": rows(2)}, 2)
    assert device.awaited == ["the event of in", "the event of compute"]


def test_a_second_batch_begins_while_the_first_runs_and_a_third_waits_for_its_buffers() -> None:
    device = CpuDevice()
    made = model(device=device)
    device.ended.clear()
    first, second = made.begin({"x": rows(2)}, 2), made.begin({"x": rows(3, 50)}, 3)
    third: list[Any] = []
    waiting = threading.Thread(target=lambda: third.append(made.begin({"x": rows(1, 90)}, 1)))
    waiting.start()
    assert not third
    device.ended.set()
    np.testing.assert_array_equal(first()["y"], 2 * rows(2))
    waiting.join(60)
    np.testing.assert_array_equal(third[0]()["y"], 2 * rows(1, 90))
    np.testing.assert_array_equal(second()["y"], 2 * rows(3, 50))


def test_buffers_are_kept_and_grow() -> None:
    device = CpuDevice()
    made = model(device=device)
    for size in (4, 4, 2, 1, 4, 3):
        np.testing.assert_array_equal(made.run({"x": rows(size, size)}, size)["y"], 2 * rows(size, size))
    assert device.log.count("pinned [4, 3]") == 4  # in and out of two sets
    assert not any(entry in device.log for entry in ("pinned [2, 3]", "pinned [1, 3]", "pinned [3, 3]"))


def test_a_size_that_comes_again_is_captured_and_answers_the_same() -> None:
    device = CpuDevice()
    made = model(device=device)
    for turn in range(8):
        np.testing.assert_array_equal(made.run({"x": rows(2, turn)}, 2)["y"], 2 * rows(2, turn))
        np.testing.assert_array_equal(made.run({"x": rows(5, turn)}, 5)["y"], 2 * rows(5, turn))
    assert device.captures == 2


def test_what_cannot_be_captured_runs_without() -> None:
    device = CpuDevice()
    device.refuses_capture = True
    made = model(device=device)
    for turn in range(8):
        np.testing.assert_array_equal(made.run({"x": rows(2, turn)}, 2)["y"], 2 * rows(2, turn))


def test_shapes_that_vary_are_never_captured() -> None:
    device = CpuDevice()
    made = model(lambda x: x.sum(1, keepdim=True).expand(-1, 3), device, spec=WORDS)
    for turn in range(20):
        width = 1 + turn % 3
        wanted = np.repeat(rows(2, 0, width).sum(1, keepdims=True), 3, axis=1)
        np.testing.assert_array_equal(made.run({"x": rows(2, 0, width)}, 2)["y"], wanted)
    assert device.captures == 0


def test_memory_of_graphs_is_given_up_before_a_batch_is() -> None:
    device, failures = CpuDevice(), [1]

    def call(x: Any) -> Any:
        if len(x) == 7 and failures:
            failures.pop()
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 2 * x

    made = model(call, device)
    for _ in range(5):
        made.run({"x": rows(2)}, 2)
    assert device.captures == 1
    np.testing.assert_array_equal(made.run({"x": rows(7)}, 7)["y"], 2 * rows(7))
    failures.append(1)
    with pytest.raises(OutOfDeviceMemoryError, match="out of memory"):
        made.run({"x": rows(7)}, 7)
    np.testing.assert_array_equal(made.run({"x": rows(7)}, 7)["y"], 2 * rows(7))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_fixed_batch_dimension_runs_in_pieces(count: int) -> None:
    sizes: list[int] = []

    def call(x: Any) -> Any:
        sizes.append(len(x))
        return 2 * x

    np.testing.assert_array_equal(model(call, piece=2).run({"x": rows(count)}, count)["y"], 2 * rows(count))
    assert set(sizes) == {2}


def test_a_model_that_raises_leaves_its_buffers_free() -> None:
    def call(x: Any) -> Any:
        if (x > 100).any():
            raise ValueError("too large")
        return 2 * x

    made = model(call)
    for _ in range(3):
        with pytest.raises(ValueError, match="too large"):
            made.run({"x": rows(1, 200)}, 1)
    np.testing.assert_array_equal(made.run({"x": rows(1)}, 1)["y"], 2 * rows(1))
    made.close()


def test_ends_keep_their_order_and_drain_waits_for_all() -> None:
    ahead, gate, order = BatchesInFlight(), threading.Event(), list[int]()

    def end(number: int) -> None:
        gate.wait(60)
        order.append(number)

    for number in range(3):
        ahead.push("model", lambda number=number: end(number))  # type: ignore[misc]
    assert not order
    assert "model" in ahead
    assert "other" not in ahead
    gate.set()
    ahead.drain()
    assert "model" not in ahead
    assert order == [0, 1, 2]


async def test_a_runtime_process_answers_batches_that_overlap(tmp_path: Path) -> None:
    """Through the socket and shared memory, two at a time, a failing one among them."""
    save_file({"scale": torch.full((1,), 2.0)}, tmp_path / "w.safetensors")
    write_script(tmp_path, "module.py", SCRIPT)
    command = [sys.executable, "-m", "tests.runtime.overlapping_runtime", str(tmp_path / "r.sock"), str(os.getpid())]
    process = await asyncio.create_subprocess_exec(*command)
    client = RuntimeClient(settings(tmp_path, "cpu"))
    client.start()
    try:
        async with asyncio.timeout(60):
            await client.first_connected()
            specs = [spec("x", (3,))], [spec("y", (3,))]
            await client.load("m", file_source(tmp_path / "w.safetensors", "safetensors", *specs, "module.py"))
            asked = [client.run("m", [{"x": rows(2, 10 * turn)}], 2) for turn in range(8)]
            asked.insert(3, client.run("m", [{"x": rows(2, -1000)}], 2))
            told = await asyncio.gather(*asked, return_exceptions=True)
            assert "negative" in str(told.pop(3))
            for turn, result in enumerate(told):
                np.testing.assert_array_equal(result.outputs["y"], 2 * rows(2, 10 * turn))
                assert result.device_seconds > 0
            await client.unload("m")
    finally:
        await client.close()
        process.terminate()
        assert await process.wait() in (0, -15)


SCRIPT = """
import torch

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        if (x < 0).any():
            raise ValueError("negative")
        return self.scale * x
"""
