"""The runtime as the engine sees it, one per device: the requests to it, and what it reports.

Times are seconds of one monotonic clock (`Engine.clock`), sizes are bytes, durations carry their unit in the name.

Errors (callers never see these):

    RuntimeTrouble
    |- RuntimeLost        the process is gone; the batch may be tried again when it is back
    |- OutOfMemory        this batch (or model) does not fit; a smaller one may
    `- BatchFailed        the model raised; some row of the batch is bad
"""

# ruff: noqa: N818 - the names say what happened; the engine reads them as answers
from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from batchwright_worker.inference.requests import Array


class RuntimeTrouble(Exception):
    """What a runtime raises; the message is the model's or the system's own."""


class RuntimeLost(RuntimeTrouble):
    """The runtime process is gone. `on_lost` fires too; `on_back` says when an empty one has taken its place. `begun`:
    may it have worked on this request? `overdue`: this request took longer than its limit, and the runtime was ended
    for it."""

    def __init__(self, message: str, *, begun: bool = True, overdue: bool = False) -> None:
        super().__init__(message)
        self.begun = begun
        self.overdue = overdue


class OutOfMemory(RuntimeTrouble):
    """The device has no room for this batch or this model."""


class BatchFailed(RuntimeTrouble):
    """The model raised on this batch (or cannot be loaded, from `load`)."""


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A model's input or output per row: the batch dimension is left out, -1 is a variable dimension. It goes over the
    wire as it is (`ipc/messages`)."""

    name: str
    datatype: str
    """Open Inference Protocol name: FP32, INT64, BYTES, ..."""
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredSource:
    """Where a model comes from, as its manifest declares it: `artifact` is the one for the runtime's kind; `inputs` and
    `outputs` are empty where the artifact itself has them. A runtime process gets paths instead
    (`ipc/messages.ModelSource`)."""

    artifact: Any
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """A loaded model: measured `memory_bytes` (0: not known), an estimate of `bytes_per_row` (0: not known)."""

    memory_bytes: int
    bytes_per_row: int
    seconds: float
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryReport:
    """Memory of one device that models may use; `total_bytes` 0 means that nothing bounds it."""

    total_bytes: int
    used_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """One batch done. `outputs` have all rows of the batch as leading dimension, in the order of the parts.

    `batch_bytes`: memory that the batch held beyond the model (0: not known); `retained_bytes`: what of it the model
    keeps for its next batch and nobody else can have meanwhile. `row_errors`: rows (of the batch)
    that failed on their own while the others are good. `input_s` and `output_s`: copies and conversions before and
    after the run, on both sides of the socket.
    """

    outputs: Mapping[str, Array]
    device_seconds: float
    memory: MemoryReport | None = None
    batch_bytes: int = 0
    retained_bytes: int = 0
    row_errors: Mapping[int, str] = field(default_factory=dict)
    input_s: float = 0.0
    output_s: float = 0.0


def ignored(_model: str, _why: str) -> None:
    """For who does not want to know of overdue requests."""


class Runtime(Protocol):
    """One device and the process that drives it, at work; how a pod is given one is the `Runtime` of
    `api/deployment`. One `load` or `depth` times `run` at a time, except that `overlaps_loads` allows a `load` during a
    `run`. All raise `RuntimeTrouble`; a cancelled `run` may still finish on the device.

    `limit_s` bounds the time on the device: a request beyond it raises RuntimeLost, and the process that it hangs in is
    ended and replaced, whatever it does."""

    @property
    def kind(self) -> str:
        """Accelerator kind, e.g. cpu."""

    @property
    def device(self) -> str:
        """Which one, unique in the pod, e.g. runtime-0."""

    @property
    def overlaps_loads(self) -> bool:
        """May a load run during a batch?"""

    @property
    def depth(self) -> int:
        """How many batches it may be given at a time; it runs them in their order."""

    def watch(
        self,
        on_lost: Callable[[str], None],
        on_back: Callable[[], None],
        on_overdue: Callable[[str, str], None] = ignored,
    ) -> None:
        """On the event loop: call `on_lost(why)` when the process is gone, `on_back()` when a new, empty one runs,
        `on_overdue(model, why)` when a request has taken half of its limit, with no `why` if it has ended after
        all."""

    async def load(self, model: str, source: DeclaredSource, limit_s: float = math.inf) -> LoadReport:
        """Load a model; `memory_bytes` is measured (before and after)."""

    async def unload(self, model: str, limit_s: float = math.inf) -> None:
        """Give its memory back; when this returns, it is free."""

    def run(
        self, model: str, parts: Sequence[Mapping[str, Array]], rows: int, limit_s: float = math.inf
    ) -> Awaitable[RunResult]:
        """Run one batch: the parts' arrays are concatenated along the leading dimension; `rows` is their sum."""

    async def memory(self) -> MemoryReport:
        """Measured now."""


RunEnded = Callable[[RunResult | Exception], None]


class PromptRuntime(ABC):
    """A runtime whose runs need no task; a base class and not a protocol, because the check
    runs for every batch and is slow for protocols."""

    @abstractmethod
    def begin(
        self,
        model: str,
        parts: Sequence[Mapping[str, Array]],
        rows: int,
        ended: Callable[[RunResult | Exception], None],
        limit_s: float = math.inf,
    ) -> None:
        """As `Runtime.run`. The parts have been copied and the request is sent when this returns; `ended` is called
        once, at once where it cannot even begin."""


class StreamCounters(msgspec.Struct, frozen=True, array_like=True):
    """The counters of a layerwise runtime: seconds since it began. Idle: an engine waited although a batch was there
    (compute for weights, memory for room). `peak_bytes` of weights in flight never exceed `capacity_bytes`."""

    compute_busy_seconds: float
    compute_idle_seconds: float
    memory_busy_seconds: float
    memory_idle_seconds: float
    decision_seconds: float
    units: int
    bytes: int
    peak_bytes: int
    capacity_bytes: int


class StreamedModel(msgspec.Struct, frozen=True, array_like=True):
    """A model of a layerwise runtime, cut into units, of which the resident ones need no fetch; times are of one row,
    alone."""

    units: int
    resident_units: int
    weight_bytes: int
    compute_milliseconds: float
    fetch_milliseconds: float


class StreamingRuntime(Protocol):
    """A runtime that may serve its models layer by layer, with weights that stream through its memory."""

    @property
    def device(self) -> str:
        """See `Runtime.device`."""

    @property
    def streams(self) -> StreamCounters | None:
        """The counters as of the last batch; None: no batch yet, or whole models."""

    @property
    def streamed(self) -> Mapping[str, StreamedModel]:
        """How each loaded model was cut; empty: whole models."""
