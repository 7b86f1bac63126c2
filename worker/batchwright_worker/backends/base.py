"""The protocol between the runtime and a loaded model of any format, and what a model may raise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from batchwright_worker.host.accelerators import HostAccelerator, accelerator_of
from batchwright_worker.host.memory import EmulatedMemory
from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import BatchPlan, TensorSpec, WrongOutputs


class LoadError(Exception):
    """The artifact cannot become a model; the message says what to change."""


class LoadRefusedError(LoadError):
    """As LoadError, and trying again is of no use: only another manifest or artifact helps."""


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


def accelerator_for(host: Host) -> HostAccelerator:
    """How libraries reach the host's accelerator. Raises LoadError for a kind that this runtime does not know: its
    models would run on the CPU, and nobody would see it."""
    found = accelerator_of(host.kind)
    if found is None:
        raise LoadError(
            f"this runtime cannot run models on {host.kind}; serve it with a server of your own "
            "(spec.runtimes[].protocol: open-inference), or with a script (format python)"
        )
    return found


class LoadedModel(Protocol):
    """A model that is ready to run. Specs are per row where its loader knows which dimension is the batch (the default
    of TensorSpec), and whole (`batched` false) where that is to be found out."""

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """The inputs of `run`."""

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """The outputs of `run`."""

    def run(self, inputs: Mapping[str, Array], rows: int) -> Mapping[str, Any]:
        """One call, of `rows` rows (1 where requests are run whole): arrays as the specs say, with the batch dimension
        in front. What it gives is held against the specs by the caller. Raises BadRowsError, OutOfDeviceMemoryError,
        or anything else for a failed call. The inputs' memory is reused afterwards."""

    def close(self) -> None:
        """Free all memory."""


@runtime_checkable
class Overlapping(Protocol):
    """A LoadedModel that need not end one batch before the next begins (`torch_device`)."""

    def use(self, plan: BatchPlan) -> None:
        """The plan of all calls from now on: it splits batches into pieces by itself."""

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
    """A LoadedModel of rows by definition, whose first batch takes no longer than later ones: it is not tried, and
    later loads skip the warm-up."""

    @property
    def needs_no_warmup(self) -> bool: ...


def check_outputs(outputs: Mapping[str, Array], rows: int) -> None:
    """Raises WrongOutputs unless every output has `rows` as its leading dimension."""
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != rows:
            raise WrongOutputs(
                f"output {name!r} has shape {list(array.shape)} for a batch of {rows} rows, so its first dimension is "
                "not the batch"
            )
