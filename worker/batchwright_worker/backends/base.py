"""The protocol between the runtime and a loaded model of any format, and what a model may raise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from batchwright_worker.host.memory import EmulatedMemory
from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import TensorSpec


class LoadError(Exception):
    """The artifact cannot become a model; the message says what to change."""


class OutOfDeviceMemoryError(Exception):
    """This model or this batch does not fit the device."""


class BadRowsError(Exception):
    """Raised by a model that knows which rows of the batch are bad: 0-based row -> why."""

    def __init__(self, rows: Mapping[int, str]) -> None:
        super().__init__("; ".join(f"row {row}: {why}" for row, why in sorted(rows.items())))
        self.rows = dict(rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Where models run: accelerator kind, CPU threads, and the memory of the emulated device."""

    kind: str
    threads: int
    emulated_memory: EmulatedMemory


class LoadedModel(Protocol):
    """A model that is ready to run. Specs are per row."""

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """The inputs of `run`."""

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """The outputs of `run`."""

    def run(self, inputs: Mapping[str, Array], rows: int) -> Mapping[str, Array]:
        """One batch: every array has `rows` as leading dimension, so have the outputs. Raises BadRowsError,
        OutOfDeviceMemoryError, or anything else for a failed batch. The inputs' memory is reused afterwards."""

    def close(self) -> None:
        """Free all memory."""


@runtime_checkable
class Overlapping(Protocol):
    """A LoadedModel that need not end one batch before the next begins (`torch_device`)."""

    def begin(self, inputs: Mapping[str, Array], rows: int) -> Callable[[], Mapping[str, Array]]:
        """Queue a batch; what it returns waits for it and gives its outputs, in the order of the begins, on any thread.
        The inputs' memory may be reused at once. Both raise as `run` does."""


@runtime_checkable
class ReportsWeights(Protocol):
    """A LoadedModel that reports the size of its weights, which lie outside this process's heap and which `close`
    frees by itself. The meter of a device cannot tell them from what a batch allocates during an overlapping load."""

    @property
    def weights_bytes(self) -> int: ...


@runtime_checkable
class NeedsNoWarmup(Protocol):
    """A LoadedModel whose first batch takes no longer than later ones: later loads skip the warm-up."""

    @property
    def needs_no_warmup(self) -> bool: ...


def check_outputs(outputs: Mapping[str, Array], rows: int) -> None:
    """Raises LoadError unless every output has `rows` as its leading dimension."""
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != rows:
            raise LoadError(
                f"output {name!r} has shape {list(array.shape)} for a batch of {rows} rows; "
                "its first dimension must be the batch: export the model with a dynamic batch dimension"
            )


def in_pieces(
    run: Callable[[Mapping[str, Array]], dict[str, Array]], inputs: Mapping[str, Array], rows: int, piece: int
) -> dict[str, Array]:
    """For models whose batch dimension is fixed to `piece` rows: run piece by piece, the last one filled up with its
    last row. piece 0 (a dynamic batch dimension): one run."""
    if piece in (0, rows):
        return run(inputs)
    results = [run(part) for part in pieces(inputs, rows, piece)]
    return {name: np.concatenate([result[name] for result in results])[:rows] for name in results[0]}


def pieces(inputs: Mapping[str, Array], rows: int, piece: int) -> list[Mapping[str, Array]]:
    """The batch as `in_pieces` runs it."""
    if piece in (0, rows):
        return [inputs]
    return [
        {name: _filled_up(array[start : start + piece], piece) for name, array in inputs.items()}
        for start in range(0, rows, piece)
    ]


def _filled_up(array: Array, rows: int) -> Array:
    if len(array) == rows:
        return array
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])
