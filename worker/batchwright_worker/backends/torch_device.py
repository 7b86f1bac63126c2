"""Torch models on a GPU, two batches in flight: the next one's inputs travel while this one computes.

`begin` stages a batch in pinned memory and queues copy in, compute and copy out on three streams; it returns at once
with `finish`, which waits for that batch alone. Two lanes of buffers take turns. Where rows have one fixed shape, a
batch size that comes again and again is captured as a CUDA graph.

Everything that is CUDA is behind `Kit`, so that the order of things is tested on machines without a driver.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import torch

from batchwright_worker.backends.base import Array, OutOfDeviceMemoryError, check_outputs
from batchwright_worker.backends.torch_values import array_of, flat, tensor_of
from batchwright_worker.ipc.messages import TensorSpec

_LOG = logging.getLogger(__name__)
LANES: Final = 2
CAPTURE_AFTER: Final = 3
"""So often a batch size must have run before it is captured: libraries have chosen their kernels by then."""
MOST_GRAPHS: Final = 16
Tensors = Sequence[Any]
Finish = Callable[[], Mapping[str, Array]]


class Kit(Protocol):
    """What a device offers. Streams are named in, compute, out."""

    device: Any

    def host(self, like: Any) -> Any:
        """An empty tensor in (pinned) host memory of this shape and type."""

    def on(self, stream: str) -> contextlib.AbstractContextManager[Any]:
        """Work is queued on this stream within the block."""

    def mark(self, stream: str) -> Any:
        """What is queued there so far."""

    def follow(self, stream: str, mark: Any) -> None:
        """What is queued there from now on waits for the mark."""

    def hold(self, tensor: Any, stream: str) -> None:
        """Its memory must not be used anew before what is queued there is done."""

    def wait(self, mark: Any) -> None:
        """Until all that was marked is done."""

    def capture(self, call: Callable[..., Tensors], inputs: Tensors) -> tuple[Callable[[], None], Tensors]:
        """A replay of the call on these very tensors, and the tensors that it fills."""

    def trim(self) -> None:
        """Give free memory back to the device."""


class CudaKit:
    """The first visible CUDA device."""

    def __init__(self) -> None:
        self.device = torch.device("cuda", 0)
        self._streams = {name: torch.cuda.Stream(self.device) for name in ("in", "compute", "out")}
        self._pool: Any = None

    def host(self, like: Any) -> Any:
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)

    def on(self, stream: str) -> contextlib.AbstractContextManager[Any]:
        context: contextlib.AbstractContextManager[Any] = torch.cuda.stream(self._streams[stream])
        return context

    def mark(self, stream: str) -> Any:
        return self._streams[stream].record_event()

    def follow(self, stream: str, mark: Any) -> None:
        self._streams[stream].wait_event(mark)

    def hold(self, tensor: Any, stream: str) -> None:
        tensor.record_stream(self._streams[stream])

    def wait(self, mark: Any) -> None:
        mark.synchronize()

    def capture(self, call: Callable[..., Tensors], inputs: Tensors) -> tuple[Callable[[], None], Tensors]:
        graph = torch.cuda.CUDAGraph()
        compute = self._streams["compute"]
        with torch.cuda.graph(graph, pool=self._pool, stream=compute, capture_error_mode="thread_local"):
            outputs = call(*inputs)
        self._pool = graph.pool()  # graphs run one after the other, so they may share what they work in
        return graph.replay, outputs

    def trim(self) -> None:
        torch.cuda.empty_cache()


class _Lane:
    """Buffers of one batch in flight, kept from batch to batch; `free` is set while no batch uses them."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._host: dict[str, Any] = {}
        self._device: dict[str, Any] = {}
        self.free = threading.Event()
        self.free.set()

    def staged(self, name: str, array: Array) -> Any:
        """The tensor on the device; its copy is queued on the stream of the caller."""
        given = tensor_of(array)
        host = self.host(name, given)
        host.copy_(given)
        device = self._fitting(self._device, name, given, lambda: torch.empty_like(given, device=self._kit.device))
        device.copy_(host, non_blocking=True)
        return device

    def host(self, name: str, like: Any) -> Any:
        """A host buffer of this shape and type."""
        return self._fitting(self._host, name, like, lambda: self._kit.host(like))

    @staticmethod
    def _fitting(kept: dict[str, Any], name: str, like: Any, make: Callable[[], Any]) -> Any:
        """The kept buffer's first rows where its rows have this shape and there are enough, else a new buffer."""
        found = kept.get(name)
        if found is not None and found.dtype == like.dtype and _holds(found.shape, like.shape):
            return found[: len(like)]
        kept[name] = make()
        return kept[name]


def _holds(buffer: Sequence[int], wanted: Sequence[int]) -> bool:
    return tuple(buffer[1:]) == tuple(wanted[1:]) and buffer[0] >= wanted[0]


class Graphs:
    """The model as a function from tensors to tensors, batch sizes that come again as graphs."""

    def __init__(self, call: Callable[..., Tensors], kit: Kit, *, enabled: bool) -> None:
        self._call = call
        self._kit = kit
        self._enabled = enabled
        self._runs: Counter[tuple[Any, ...]] = Counter()
        self._captured: dict[tuple[Any, ...], tuple[Tensors, Callable[[], None], Tensors]] = {}

    def __call__(self, tensors: Tensors) -> Tensors:
        """Outputs that nobody else writes to."""
        if not self._enabled:
            return self._call(*tensors)
        key = tuple(tuple(tensor.shape) for tensor in tensors)
        self._runs[key] += 1
        if key not in self._captured and self._runs[key] > CAPTURE_AFTER and len(self._captured) < MOST_GRAPHS:
            self._capture(key, tensors)
        captured = self._captured.get(key)
        if captured is None:
            return self._call(*tensors)
        inputs, replay, outputs = captured
        for target, tensor in zip(inputs, tensors, strict=True):
            target.copy_(tensor)
        replay()
        return [output.clone() for output in outputs]

    def drop(self) -> bool:
        """Forget all graphs, for good; True if there were any."""
        had, self._enabled = bool(self._captured), False
        self._captured.clear()
        return had

    def _capture(self, key: tuple[Any, ...], tensors: Tensors) -> None:
        inputs = [tensor.clone() for tensor in tensors]
        try:
            replay, outputs = self._kit.capture(self._call, inputs)
        except Exception as error:
            _LOG.warning("the model cannot be captured as a graph, it runs without: %s", error)
            self.drop()
            self._kit.trim()
        else:
            self._captured[key] = (inputs, replay, outputs)


class DeviceModel:
    """A LoadedModel that can `begin` a batch while another one is under way. One thread begins, one finishes."""

    def __init__(
        self,
        call: Callable[..., Any],
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        kit: Kit,
        piece: int = 0,
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self._kit = kit
        self._piece = piece
        fixed = all(size >= 0 for spec in inputs for size in spec.shape)
        self._graphs: Graphs | None = Graphs(lambda *given: flat(call(*given), outputs), kit, enabled=fixed)
        self._lanes = [_Lane(kit) for _ in range(LANES)]
        self._turn = 0

    def run(self, inputs: Mapping[str, Array], rows: int) -> Mapping[str, Array]:
        """As LoadedModel.run."""
        return self.begin(inputs, rows)()

    def begin(self, inputs: Mapping[str, Array], rows: int) -> Finish:
        """Queue a batch; the inputs' memory is free again when this returns. Raises OutOfDeviceMemoryError."""
        lane = self._lanes[self._turn]
        self._turn = (self._turn + 1) % LANES
        lane.free.wait()
        try:
            outputs, mark = self._queued(lane, inputs, rows)
        except BaseException as error:
            self._kit.wait(self._kit.mark("in"))  # the lane's buffers are free again
            if isinstance(error, torch.OutOfMemoryError):
                self._kit.trim()
                raise OutOfDeviceMemoryError(str(error)) from error
            raise
        lane.free.clear()

        def finish() -> Mapping[str, Array]:
            try:
                self._kit.wait(mark)
                arrays = {name: array_of(tensor).copy() for name, tensor in outputs.items()}
            except torch.OutOfMemoryError as error:
                raise OutOfDeviceMemoryError(str(error)) from error
            finally:
                lane.free.set()
            check_outputs(arrays, rows)
            return arrays

        return finish

    def close(self) -> None:
        """Lets go of weights, graphs and buffers."""
        for lane in self._lanes:
            lane.free.wait()
        self._graphs, self._lanes = None, []
        self._kit.trim()

    def _queued(self, lane: _Lane, inputs: Mapping[str, Array], rows: int) -> tuple[dict[str, Any], Any]:
        """The outputs' host buffers, and the mark after which they are filled."""
        kit = self._kit
        with torch.inference_mode():
            with kit.on("in"):
                tensors = [lane.staged(spec.name, inputs[spec.name]) for spec in self.inputs]
            kit.follow("compute", kit.mark("in"))
            with kit.on("compute"):
                results = self._computed(tensors, rows)
            kit.follow("out", kit.mark("compute"))
            outputs = {}
            with kit.on("out"):
                for spec, result in zip(self.outputs, results, strict=True):
                    kit.hold(result, "out")
                    outputs[spec.name] = lane.host(f"out {spec.name}", result)
                    outputs[spec.name].copy_(result, non_blocking=True)
            return outputs, kit.mark("out")

    def _computed(self, tensors: Tensors, rows: int) -> Tensors:
        assert self._graphs is not None, "run after close"
        try:
            return self._in_pieces(tensors, rows)
        except torch.OutOfMemoryError:
            if not self._graphs.drop():
                raise
            self._kit.trim()  # graphs hold memory of their own
            return self._in_pieces(tensors, rows)

    def _in_pieces(self, tensors: Tensors, rows: int) -> Tensors:
        """As base.in_pieces, on the device."""
        assert self._graphs is not None
        if self._piece in (0, rows):
            return self._graphs(tensors)
        short = -rows % self._piece
        filled = [torch.cat([each, each[-1:].expand(short, *each.shape[1:])]) if short else each for each in tensors]
        runs = [self._graphs(part) for part in zip(*(each.split(self._piece) for each in filled), strict=True)]
        return [torch.cat(parts)[:rows] for parts in zip(*runs, strict=True)]
