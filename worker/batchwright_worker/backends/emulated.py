"""The emulated model: a batch of n rows takes fixed + n * per_row microseconds, alone on its device.

A test instrument. Each output row is the index of the largest element of the row's first batched input, so that a
wrongly routed answer shows. A row that holds NaN has no largest element and is a bad row. A model that declares no
inputs takes any; one that declares no outputs has `argmax`, INT64 [1]. Benches may change the speed in mid-run:
`emulated_speed`. Where `loadOverlaps` gives the device a copy engine of its own, batches may queue on it
(`OverlappingEmulatedModel`).
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from batchwright_worker.backends.base import BadRowsError, Host, LoadError, OutOfDeviceMemoryError
from batchwright_worker.backends.emulated_speed import EmulatedSpeed, SpeedSource
from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import BatchPlan, TensorSpec
from batchwright_worker.ipc.messages import EmulatedSource, ModelSource
from batchwright_worker.oip.datatypes import numpy_of

_PR_SET_TIMERSLACK: Final = 29
_WAKING_S: Final = 60e-6
"""The least that a virtual machine takes to wake a thread by a sharp timer; the rest of it is waited for awake."""
_DEFAULT_OUTPUT: Final = TensorSpec(name="argmax", datatype="INT64", shape=(1,))


class _Device:
    """The one device of this process: it runs one batch at a time, also while a load overlaps it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free_at = 0.0

    def occupy(self, begin: float, seconds: float) -> float:
        """When a batch that arrives at `begin` will end, behind the batches that are queued already."""
        with self._lock:
            self._free_at = max(begin, self._free_at) + seconds
            return self._free_at


_DEVICE: Final = _Device()


class EmulatedModel:
    """See the module."""

    def __init__(self, source: ModelSource, emulated: EmulatedSource, host: Host) -> None:
        self.inputs: Sequence[TensorSpec] = source.inputs
        self.outputs: Sequence[TensorSpec] = source.outputs or [_DEFAULT_OUTPUT]
        self._whole = frozenset(spec.name for spec in source.inputs if not spec.batched)
        self._emulated = emulated
        self._speed = SpeedSource(
            EmulatedSpeed(
                fixed_microseconds=emulated.fixed_microseconds, per_row_microseconds=emulated.per_row_microseconds
            )
        )
        self._memory = host.emulated_memory

    def run(self, inputs: Mapping[str, Array], rows: int) -> Mapping[str, Array]:
        """Occupies the device, allocates its memory, and answers each row's argmax."""
        begin = time.monotonic()
        with self._memory_of(rows):
            answer = self.answer(inputs, rows)
            _sleep_until(_DEVICE.occupy(begin, self._speed.now().seconds(rows)))
        return answer

    @contextlib.contextmanager
    def _memory_of(self, rows: int) -> Iterator[None]:
        """The batch's memory is allocated within the block."""
        size = rows * self._emulated.bytes_per_row
        if not self._memory.allocate(size):
            raise OutOfDeviceMemoryError(
                f"{rows} rows need {size} bytes; {self._memory.used_bytes} of {self._memory.total_bytes} are used"
            )
        try:
            yield
        finally:
            self._memory.free(size)

    def answer(self, inputs: Mapping[str, Array], rows: int) -> Mapping[str, Array]:
        """The outputs alone, at once."""
        winners = _argmax(next((inputs[name] for name in inputs if name not in self._whole), np.zeros((rows, 1))), rows)
        return {spec.name: _filled(spec, winners) for spec in self.outputs}

    @property
    def weights_bytes(self) -> int:
        """What `close` frees."""
        return self._emulated.weights_bytes

    @property
    def needs_no_warmup(self) -> bool:
        """Its loads take load_milliseconds, no more."""
        return True

    def close(self) -> None:
        """Frees the weights."""
        self._memory.free(self.weights_bytes)


class OverlappingEmulatedModel(EmulatedModel):
    """Its batches queue on the device, so that the sidecar can request loads meanwhile."""

    def use(self, plan: BatchPlan) -> None:
        """It takes any number of rows."""

    def begin(self, inputs: Mapping[str, Array], rows: int) -> Callable[[], Mapping[str, Array]]:
        """As `run`, in two steps."""
        begin = time.monotonic()
        answer = self.answer(inputs, rows)
        end = _DEVICE.occupy(begin, self._speed.now().seconds(rows))

        def finish() -> Mapping[str, Array]:
            with self._memory_of(rows):
                _sleep_until(end)
            return answer

        return finish


def load(source: ModelSource, host: Host) -> EmulatedModel:
    """Takes load_milliseconds and allocates weights_bytes."""
    emulated = source.emulated
    if emulated is None:
        raise LoadError(f"model {source.name!r} has format emulated and no `emulated` section in its artifact")
    end = time.monotonic() + emulated.load_milliseconds / 1e3
    _sharpen_timers()
    if not host.emulated_memory.allocate(emulated.weights_bytes):
        raise OutOfDeviceMemoryError(
            f"model {source.name!r} needs {emulated.weights_bytes} bytes; "
            f"{host.emulated_memory.used_bytes} of {host.emulated_memory.total_bytes} are used"
        )
    kind = OverlappingEmulatedModel if emulated.load_overlaps else EmulatedModel
    model = kind(source, emulated, host)
    _sleep_until(end)
    return model


def answering(source: ModelSource, emulated: EmulatedSource, host: Host) -> EmulatedModel:
    """A model for its `answer` alone: layerwise serving accounts for time and memory itself."""
    return EmulatedModel(source, emulated, host)


def _sleep_until(end: float) -> None:
    """Never returns early; late by microseconds once timers are sharp."""
    while (rest := end - time.monotonic()) > 0:
        if rest > _WAKING_S:
            time.sleep(rest - _WAKING_S)


def _sharpen_timers() -> None:
    """The default timer slack of 50 us would be added to each batch."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)


def _argmax(array: Array, rows: int) -> Array:
    flat = array.reshape(rows, -1)
    if flat.shape[1] == 0:
        return np.zeros(rows, np.int64)
    if flat.dtype == object:
        return np.array([max(range(len(row)), key=row.__getitem__) for row in flat], np.int64)
    if flat.dtype.kind in "fV":
        values = flat.astype(np.float32) if flat.dtype.itemsize < 4 else flat
        bad = np.flatnonzero(np.isnan(values).any(axis=1))
        if bad.size:
            raise BadRowsError({int(row): "it holds NaN, so it has no largest element" for row in bad})
        return np.asarray(values.argmax(axis=1))
    return np.asarray(flat.argmax(axis=1))


def _filled(spec: TensorSpec, winners: Array) -> Array:
    if not spec.batched:
        return np.zeros([1 if size < 0 else size for size in spec.shape], numpy_of(spec.datatype))
    shape = [1 if size < 0 else size for size in spec.shape]
    dtype = numpy_of(spec.datatype)
    if spec.datatype == "BYTES":
        column = np.array([str(int(winner)).encode() for winner in winners], dtype=object)
    else:
        column = winners.astype(dtype)
    return np.ascontiguousarray(np.broadcast_to(column.reshape(-1, *[1] * len(shape)), (len(winners), *shape)))
