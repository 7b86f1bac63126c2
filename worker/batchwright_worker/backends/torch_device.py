"""Torch models on a GPU, two batches in flight: the next one's inputs travel while this one computes.

`begin` stages a batch in pinned memory and queues copy in, compute and copy out on three streams; it returns at once
with `finish`, which waits for that batch alone. Two sets of staging buffers alternate (double buffering). Where rows
have one fixed shape, a batch size that recurs is captured as a CUDA graph.

All calls of CUDA are behind `StreamDevice`, so that the order of copies and kernels is tested without a driver.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import torch

from batchwright_worker.backends.base import OutOfDeviceMemoryError
from batchwright_worker.backends.torch_values import array_of, flat, tensor_of
from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import BatchPlan, TensorSpec

_LOG = logging.getLogger(__name__)
IN_FLIGHT: Final = 2
"""One batch computes while the inputs of the next one are copied; a third would only wait for the same two engines."""
CAPTURE_AFTER: Final = 3
"""Runs of a batch size before it is captured: by then libraries have chosen their kernels, which a graph freezes."""
MAX_GRAPHS: Final = 16
"""Each graph holds device memory of its own; batch sizes beyond these run without one."""
Tensors = Sequence[Any]
Finish = Callable[[], Mapping[str, Array]]


class StreamDevice(Protocol):
    """A device with the streams in, compute and out; the methods go by torch's words."""

    handle: Any
    """Its `torch.device`."""

    def pinned(self, like: Any) -> Any:
        """An empty tensor in (pinned) host memory of this shape and type."""

    def on(self, stream: str) -> contextlib.AbstractContextManager[Any]:
        """Work is queued on this stream within the block."""

    def record(self, stream: str) -> Any:
        """An event that is reached once everything queued on this stream so far is done."""

    def wait_event(self, stream: str, event: Any) -> None:
        """Whatever is queued on this stream from now on waits for the event."""

    def record_stream(self, tensor: Any, stream: str) -> None:
        """The allocator may not reuse the tensor's memory before everything queued on this stream so far is done."""

    def wait(self, event: Any) -> None:
        """Blocks until the event is reached."""

    def capture(self, call: Callable[..., Tensors], inputs: Tensors) -> tuple[Callable[[], None], Tensors]:
        """A graph of the call: its replay, which reads these very inputs, and the outputs that it fills."""

    def empty_cache(self) -> None:
        """Return cached memory to the device."""


class CudaDevice:
    """The first visible CUDA device."""

    def __init__(self) -> None:
        self.handle = torch.device("cuda", 0)
        self._streams = {name: torch.cuda.Stream(self.handle) for name in ("in", "compute", "out")}
        self._pool: Any = None

    def pinned(self, like: Any) -> Any:
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)

    def on(self, stream: str) -> contextlib.AbstractContextManager[Any]:
        context: contextlib.AbstractContextManager[Any] = torch.cuda.stream(self._streams[stream])
        return context

    def record(self, stream: str) -> Any:
        return self._streams[stream].record_event()

    def wait_event(self, stream: str, event: Any) -> None:
        self._streams[stream].wait_event(event)

    def record_stream(self, tensor: Any, stream: str) -> None:
        tensor.record_stream(self._streams[stream])

    def wait(self, event: Any) -> None:
        event.synchronize()

    def capture(self, call: Callable[..., Tensors], inputs: Tensors) -> tuple[Callable[[], None], Tensors]:
        graph = torch.cuda.CUDAGraph()
        compute = self._streams["compute"]
        with torch.cuda.graph(graph, pool=self._pool, stream=compute, capture_error_mode="thread_local"):
            outputs = call(*inputs)
        self._pool = graph.pool()  # graphs run one after the other, so they may share what they work in
        return graph.replay, outputs

    def empty_cache(self) -> None:
        torch.cuda.empty_cache()


class _StagingBuffers:
    """Buffers of one batch in flight, kept from batch to batch; `free` is set while no batch uses them."""

    def __init__(self, device: StreamDevice) -> None:
        self._device = device
        self._pinned: dict[str, Any] = {}
        self._inputs: dict[str, Any] = {}
        self.free = threading.Event()
        self.free.set()

    def staged(self, name: str, array: Array) -> Any:
        """The tensor on the device; its copy is queued on the caller's stream."""
        given = tensor_of(array)
        # The caller reuses the inputs' memory when `begin` returns, and only pinned memory is copied asynchronously.
        pinned = self.pinned(name, given)
        pinned.copy_(given)
        there = self._fitting(self._inputs, name, given, lambda: torch.empty_like(given, device=self._device.handle))
        there.copy_(pinned, non_blocking=True)
        return there

    def pinned(self, name: str, like: Any) -> Any:
        """A host buffer of this shape and type."""
        return self._fitting(self._pinned, name, like, lambda: self._device.pinned(like))

    @staticmethod
    def _fitting(kept: dict[str, Any], name: str, like: Any, make: Callable[[], Any]) -> Any:
        """The kept buffer's first rows where its rows have this shape and there are enough, else a new buffer."""
        found = kept.get(name)
        if found is not None and found.dtype == like.dtype and _holds(found.shape, like.shape):
            return found[: len(like)] if like.dim() else found
        kept[name] = make()
        return kept[name]


def _holds(buffer: Sequence[int], wanted: Sequence[int]) -> bool:
    if len(buffer) != len(wanted) or not wanted:
        return len(buffer) == len(wanted)
    return tuple(buffer[1:]) == tuple(wanted[1:]) and buffer[0] >= wanted[0]


class Graphs:
    """The model as a function from tensors to tensors; recurring batch sizes are replayed as graphs."""

    def __init__(self, call: Callable[..., Tensors], device: StreamDevice, *, enabled: bool) -> None:
        self._call = call
        self._device = device
        self._enabled = enabled
        self._runs: Counter[tuple[Any, ...]] = Counter()
        self._captured: dict[tuple[Any, ...], tuple[Tensors, Callable[[], None], Tensors]] = {}

    def __call__(self, tensors: Tensors) -> Tensors:
        """Outputs that no later call overwrites."""
        if not self._enabled:
            return self._call(*tensors)
        key = tuple(tuple(tensor.shape) for tensor in tensors)
        self._runs[key] += 1
        if key not in self._captured and self._runs[key] > CAPTURE_AFTER and len(self._captured) < MAX_GRAPHS:
            self._capture(key, tensors)
        captured = self._captured.get(key)
        if captured is None:
            return self._call(*tensors)
        inputs, replay, outputs = captured
        for target, tensor in zip(inputs, tensors, strict=True):
            target.copy_(tensor)
        replay()
        # A replay fills the same outputs each time, and this batch's copy out may still run when the next one replays.
        return [output.clone() for output in outputs]

    def drop(self) -> bool:
        """Drop all graphs and capture none again; True if there were any."""
        had, self._enabled = bool(self._captured), False
        self._captured.clear()
        return had

    def _capture(self, key: tuple[Any, ...], tensors: Tensors) -> None:
        inputs = [tensor.clone() for tensor in tensors]
        try:
            replay, outputs = self._device.capture(self._call, inputs)
        except Exception as error:
            _LOG.warning("the model cannot be captured as a graph, it runs without: %s", error)
            self.drop()
            self._device.empty_cache()
        else:
            self._captured[key] = (inputs, replay, outputs)


class DeviceModel:
    """A LoadedModel that can `begin` a batch while another one is in flight. One thread begins, one finishes."""

    def __init__(
        self,
        call: Callable[..., Any],
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        device: StreamDevice,
        piece: int = 0,
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self._device = device
        self._piece = piece
        self._whole: frozenset[str] = frozenset()
        fixed = all(size >= 0 for spec in inputs for size in (spec.shape if spec.batched else spec.shape[1:]))
        self._graphs: Graphs | None = Graphs(lambda *given: flat(call(*given), outputs), device, enabled=fixed)
        self._buffers = [_StagingBuffers(device) for _ in range(IN_FLIGHT)]
        self._next = 0

    def use(self, plan: BatchPlan) -> None:
        """As Overlapping.use."""
        self._piece, self._whole = plan.piece, plan.unbatched_inputs | plan.unbatched_outputs

    def run(self, inputs: Mapping[str, Array], rows: int) -> Mapping[str, Array]:
        """As LoadedModel.run."""
        return self.begin(inputs, rows)()

    def begin(self, inputs: Mapping[str, Array], rows: int) -> Finish:
        """Queue a batch; the inputs' memory is free again when this returns. Raises OutOfDeviceMemoryError."""
        buffers = self._buffers[self._next]
        self._next = (self._next + 1) % IN_FLIGHT
        buffers.free.wait()
        try:
            outputs, event = self._queued(buffers, inputs, rows)
        except BaseException as error:
            # Copies into these buffers may be queued still, and kernels that read what was copied: they are free once
            # those are done.
            for stream in ("in", "compute"):
                self._device.wait(self._device.record(stream))
            if isinstance(error, torch.OutOfMemoryError):
                self._device.empty_cache()
                raise OutOfDeviceMemoryError(str(error)) from error
            raise
        buffers.free.clear()

        def finish() -> Mapping[str, Array]:
            try:
                self._device.wait(event)
                arrays = {name: array_of(tensor).copy() for name, tensor in outputs.items()}
            except torch.OutOfMemoryError as error:
                raise OutOfDeviceMemoryError(str(error)) from error
            finally:
                buffers.free.set()
            return arrays

        return finish

    def close(self) -> None:
        """Frees weights, graphs and buffers."""
        for buffers in self._buffers:
            buffers.free.wait()
        self._graphs, self._buffers = None, []
        self._device.empty_cache()

    def _queued(self, buffers: _StagingBuffers, inputs: Mapping[str, Array], rows: int) -> tuple[dict[str, Any], Any]:
        """The outputs' host buffers, and the event that says that they are filled."""
        device = self._device
        with torch.inference_mode():
            with device.on("in"):
                tensors = [buffers.staged(spec.name, inputs[spec.name]) for spec in self.inputs]
            device.wait_event("compute", device.record("in"))
            with device.on("compute"):
                results = self._computed(tensors, rows)
            device.wait_event("out", device.record("compute"))
            outputs = {}
            with device.on("out"):
                for spec, result in zip(self.outputs, results, strict=True):
                    device.record_stream(result, "out")
                    outputs[spec.name] = buffers.pinned(f"out {spec.name}", result)
                    outputs[spec.name].copy_(result, non_blocking=True)
            return outputs, device.record("out")

    def _computed(self, tensors: Tensors, rows: int) -> Tensors:
        assert self._graphs is not None, "run after close"
        try:
            return self._in_pieces(tensors, rows)
        except torch.OutOfMemoryError:
            if not self._graphs.drop():
                raise
            self._device.empty_cache()  # the graphs' memory pool, which the allocator keeps otherwise
            return self._in_pieces(tensors, rows)

    def _in_pieces(self, tensors: Tensors, rows: int) -> Tensors:
        """As base.pieces, on the device."""
        assert self._graphs is not None
        if self._piece in (0, rows):
            return self._graphs(tensors)
        whole = [spec.name in self._whole for spec in self.inputs]
        count = -(-rows // self._piece)
        parts = [[each] * count if kept else self._split(each, rows) for each, kept in zip(tensors, whole, strict=True)]
        runs = [self._graphs(part) for part in zip(*parts, strict=True)]
        return [
            results[0] if spec.name in self._whole else torch.cat(results)[:rows]
            for spec, results in zip(self.outputs, zip(*runs, strict=True), strict=True)
        ]

    def _split(self, tensor: Any, rows: int) -> Sequence[Any]:
        """Pieces, the last one filled up with its last row."""
        short = -rows % self._piece
        filled = torch.cat([tensor, tensor[-1:].expand(short, *tensor.shape[1:])]) if short else tensor
        pieces: Sequence[Any] = filled.split(self._piece)
        return pieces
