"""The runtime as the engine sees it, one per device: the requests to it, and what it reports.

Times are seconds of one monotonic clock (`Engine.clock`), sizes are bytes, durations carry their unit in the name.

Errors (callers never see these):

    RuntimeTrouble
    |- RuntimeLost        the process is gone; the batch may be tried again when it is back
    |- OutOfMemory        this batch (or model) does not fit; a smaller one may
    |  `- NoSharedMemory  the same of the way to the device
    |- RuntimeBusy        it has no time for this batch now: the same batch may do later
    |- WrongOutputs       what the model gave is not what it declares: a fact about the model, not about a row
    `- BatchFailed        the model raised; some row of the batch is bad
"""

# ruff: noqa: N818 - the names say what happened; the engine reads them as answers
from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec

from batchwright_worker.inference.requests import Array


class RuntimeTrouble(Exception):
    """What a runtime raises; the message is the model's or the system's own."""


class RuntimeLost(RuntimeTrouble):
    """The runtime process is gone. `on_lost` fires too; `on_back` says when an empty one has taken its place. `begun`:
    may it have worked on this request? `overdue`: this request took longer than its limit, and the runtime was ended
    for it. `beside`: it worked on others at the same time, so that nobody knows under which one it died."""

    def __init__(self, message: str, *, begun: bool = True, overdue: bool = False, beside: bool = False) -> None:
        super().__init__(message)
        self.begun = begun
        self.overdue = overdue
        self.beside = beside


class OutOfMemory(RuntimeTrouble):
    """The device has no room for this batch or this model."""


class NoSharedMemory(OutOfMemory):
    """The way to the device has none for this batch: models that go make no room there."""


class RuntimeBusy(RuntimeTrouble):
    """A server behind this one turned the batch away for now. `retry_after_s`: when it wants to be asked again."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BatchFailed(RuntimeTrouble):
    """The model raised on this batch (or cannot be loaded, from `load`)."""


class LoadRefused(BatchFailed):
    """From `load`: the model cannot be loaded as it is declared, and trying again is of no use."""


class WrongOutputs(RuntimeTrouble):
    """The model's answer is not what it declares; the message names the output, what is wanted and what was given."""


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A model's input or output; -1 is a variable dimension. It goes over the wire as it is (`ipc/messages`)."""

    name: str
    datatype: str
    """Open Inference Protocol name: FP32, INT64, BYTES, ..."""
    shape: tuple[int, ...]
    """Of one row, the batch dimension left out; the whole shape where it is not batched."""
    batched: bool = True
    """False: it has no batch dimension and is passed whole."""

    @property
    def full_shape(self) -> tuple[int, ...]:
        """With the batch dimension, -1, where it has one."""
        return (-1, *self.shape) if self.batched else self.shape


BatchMode = Literal["Rows", "Whole"]


class Sample(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Inputs that a model was seen to take (`batching/samples`): a kind of content, and the size of variable
    dimensions."""

    kind: str
    size: int


class BatchPlan(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """How a model's requests become calls of it. Rows: rows of several requests may share a call. Whole: each request
    is a call of its own, whose tensors are passed as they are, and all of whose tensors are not `batched`."""

    mode: BatchMode
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    piece: int = 0
    """Rows that a call has, where the model fixes them; 0: any number."""
    reason: str = ""
    """Why it is Whole, or what was taken on trust; empty: nothing to say."""
    sample: Sample | None = None
    """None: the model was not tried, or took nothing that was tried."""

    @property
    def whole(self) -> bool:
        return self.mode == "Whole"

    @property
    def unbatched_inputs(self) -> frozenset[str]:
        return frozenset(spec.name for spec in self.inputs if not spec.batched)

    @property
    def unbatched_outputs(self) -> frozenset[str]:
        return frozenset(spec.name for spec in self.outputs if not spec.batched)


class WarmUpTensor(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One input of the warm-up as the manifest declares it: its whole shape, and its elements, or one for all."""

    name: str
    shape: tuple[int, ...]
    data: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredSource:
    """Where a model comes from, as its manifest declares it: `artifact` is the one for the runtime's kind; `inputs` and
    `outputs` are empty where the artifact itself has them. A runtime process gets paths instead
    (`ipc/messages.ModelSource`)."""

    artifact: Any
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    mode: BatchMode | None = None
    """None: to be found out."""
    plan: BatchPlan | None = None
    """What an earlier load of this artifact has found; None: it is to be found out."""
    untried: str = ""
    """Why the load must not try the model; empty: it may."""
    warmup: tuple[WarmUpTensor, ...] = ()
    padding: int = 0
    """The multiple that a variable dimension is padded to; 0: none is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """A loaded model: measured `memory_bytes` (0: not known), an estimate of `bytes_per_row` (0: not known)."""

    memory_bytes: int
    bytes_per_row: int
    seconds: float
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    plan: BatchPlan | None = None
    """None: rows, as the specs say."""
    message: str = ""
    """What went wrong in its warm-up, which keeps no model from being served."""
    digest: str = ""
    """Of what the model was made of; empty where it cannot be told."""


class MemoryReport(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of one device that models may use; `total_bytes` 0 means that nothing bounds it."""

    total_bytes: int
    used_bytes: int
    free_bytes: int


class RunResult(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One batch done. `outputs` have all rows of the batch as leading dimension, in the order of the parts; those that
    are not batched are whole.

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
    row_errors: Mapping[int, str] = {}
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
        """Run one batch: the parts' arrays are concatenated along the leading dimension; `rows` is their sum. Inputs
        that are not batched are equal in all parts and passed once."""

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
    way: str = ""
    """How the models are served now, and why."""


class StreamedModel(msgspec.Struct, frozen=True, array_like=True):
    """A model of a layerwise runtime, cut into units, of which the resident ones need no fetch; times are of one row,
    alone."""

    units: int
    resident_units: int
    weight_bytes: int
    compute_milliseconds: float
    fetch_milliseconds: float
    table_bytes: int = 0
    """Of tables that are never fetched, because a batch needs a few rows of them."""


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
