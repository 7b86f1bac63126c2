"""What enters and leaves the engine: requests, results, errors, and the runtime as the engine sees it.

The front ends (HTTP, gRPC, control) call an `Engine`; the engine calls `Runtime`s, one per device. Times are
seconds of one monotonic clock (`Engine.clock`), sizes are bytes, durations carry their unit in the name.

Errors, by what the caller does next (each carries its HTTP status and gRPC code name):

    InferenceError
    |- BadInput           400 INVALID_ARGUMENT    mend the request; names the input, what is wanted and what was given
    |- UnknownModel       404 NOT_FOUND           ask for a model that is served here
    |- Refused            503 RESOURCE_EXHAUSTED  come back after `retry_after_s`
    |  `- QueueFull       503 RESOURCE_EXHAUSTED  the same, without a latency target
    |- ModelUnavailable   503 UNAVAILABLE         the model cannot be loaded now; `retry_after_s`
    |- Stopping           503 UNAVAILABLE         ask another replica
    |- DeadlineExceeded   504 DEADLINE_EXCEEDED   the caller's own deadline has passed or cannot be met
    `- ModelFailed        500 INTERNAL            the model raised on these rows

    RuntimeTrouble (a runtime tells the engine; callers never see these)
    |- RuntimeLost        the process is gone; the batch may be tried again when it is back
    |- OutOfMemory        this batch (or model) does not fit; a smaller one may
    `- BatchFailed        the model raised; some row of the batch is bad
"""

# ruff: noqa: N818 - the names say what happened; callers read them as answers
from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import msgspec
from numpy.typing import NDArray

Array = NDArray[Any]

# --- requests and results ------------------------------------------------------------------------


class Form:
    """What many requests have in common: all that carry the same one have inputs of the same names, datatypes and
    shapes, and want the same outputs. The engine notes on it what it has checked of the first."""

    __slots__ = ("bucket", "checked")

    def __init__(self) -> None:
        self.checked: object = None
        self.bucket: Hashable = ()


class InferRequest(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One call: every array of `inputs` has the same leading batch dimension, `rows` (>= 1).

    `arrival` is when the request was there to be served; `deadline` is the caller's own (both on the engine's clock).
    A lower `priority` is served earlier (Triton's sense); 0 is the default and counts as the middle of all.
    `outputs` names the wanted outputs, empty for all.
    """

    model: str
    inputs: Mapping[str, Array]
    rows: int
    arrival: float
    deadline: float | None = None
    priority: int = 0
    request_id: str = ""
    outputs: tuple[str, ...] = ()
    form: Form | None = None


class InferResult(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Outputs with `rows` as leading dimension, in the order of the request's rows.

    `batch_size` is the number of rows of the batch that the request ran in (the largest if it was split),
    `queue_ms` from arrival to the start of its first batch, `run_ms` from there to the answer. `shared` is the same
    dictionary for all requests that the same batch answered whole: a front end keeps there what their answers share.
    """

    outputs: Mapping[str, Array]
    batch_size: int
    queue_ms: float
    run_ms: float
    shared: dict[Any, Any] | None = None


# --- errors that callers see ---------------------------------------------------------------------


class InferenceError(Exception):
    """An answer that is not a result. `retry_after_s` is None where trying again is of no use."""

    http_status: ClassVar[int] = 500
    grpc_code: ClassVar[str] = "INTERNAL"
    retry_after_s: float | None = None

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    @property
    def retry_after_header(self) -> str | None:
        """Whole seconds for the Retry-After header (at least 1), None where there is nothing to wait for."""
        return None if self.retry_after_s is None else str(max(1, math.ceil(self.retry_after_s)))


class BadInput(InferenceError):
    """The request does not fit the model."""

    http_status = 400
    grpc_code = "INVALID_ARGUMENT"

    def __init__(self, message: str, *, input_name: str = "", wanted: str = "", given: str = "") -> None:
        super().__init__(message)
        self.input_name = input_name
        self.wanted = wanted
        self.given = given


class UnknownModel(InferenceError):
    """No model of this name is served here (or it was unloaded by request)."""

    http_status = 404
    grpc_code = "NOT_FOUND"


class Refused(InferenceError):
    """It could not be answered in time, so it is refused at once."""

    http_status = 503
    grpc_code = "RESOURCE_EXHAUSTED"


class QueueFull(Refused):
    """The model's queue has reached maxQueueLength."""


class ModelUnavailable(InferenceError):
    """The model cannot be loaded at present."""

    http_status = 503
    grpc_code = "UNAVAILABLE"


class Stopping(InferenceError):
    """This replica is shutting down."""

    http_status = 503
    grpc_code = "UNAVAILABLE"


class DeadlineExceeded(InferenceError):
    """The caller's deadline has passed, or cannot be met any more."""

    http_status = 504
    grpc_code = "DEADLINE_EXCEEDED"


class ModelFailed(InferenceError):
    """The model raised on this request's rows; `row` is the first bad one where it is known."""

    def __init__(self, message: str, *, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


# --- the runtime, as the engine sees it ----------------------------------------------------------


class RuntimeTrouble(Exception):
    """What a runtime raises; the message is the model's or the system's own."""


class RuntimeLost(RuntimeTrouble):
    """The runtime process is gone. `on_lost` fires too; `on_back` says when an empty one has taken its place."""


class OutOfMemory(RuntimeTrouble):
    """The device has no room for this batch or this model."""


class BatchFailed(RuntimeTrouble):
    """The model raised on this batch (or cannot be loaded, from `load`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """A model's input or output per row: the batch dimension is left out, -1 is a variable dimension."""

    name: str
    datatype: str
    """Open Inference Protocol name: FP32, INT64, BYTES, ..."""
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """What a runtime needs to load a model: `artifact` is the manifest's artifact for the runtime's kind;
    `inputs` and `outputs` are as declared there (empty where the artifact tells)."""

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


class Runtime(Protocol):
    """One device and the process that drives it. One `load` or `depth` times `run` at a time, except that
    `overlaps_loads` allows a `load` beside a `run`. All raise `RuntimeTrouble`; a cancelled `run` may still finish on
    the device."""

    @property
    def kind(self) -> str:
        """Accelerator kind, e.g. cpu."""

    @property
    def device(self) -> str:
        """Which one, unique in the pod, e.g. runtime-0."""

    @property
    def overlaps_loads(self) -> bool:
        """May a load run beside a batch?"""

    @property
    def depth(self) -> int:
        """How many batches it may be given at a time; it runs them in their order."""

    def watch(self, on_lost: Callable[[str], None], on_back: Callable[[], None]) -> None:
        """On the event loop: call `on_lost(why)` when the process is gone, `on_back()` when a new, empty one runs."""

    async def load(self, model: str, source: ModelSource) -> LoadReport:
        """Load a model; `memory_bytes` is measured (before and after)."""

    async def unload(self, model: str) -> None:
        """Give its memory back; when this returns, it is free."""

    def run(self, model: str, parts: Sequence[Mapping[str, Array]], rows: int) -> Awaitable[RunResult]:
        """Run one batch: the parts' arrays are concatenated along the leading dimension; `rows` is their sum."""

    async def memory(self) -> MemoryReport:
        """Measured now."""


RunEnded = Callable[[RunResult | Exception], None]


class PromptRuntime(ABC):
    """A runtime whose runs need no task; a base class, because it is asked for with every batch."""

    @abstractmethod
    def begin(
        self,
        model: str,
        parts: Sequence[Mapping[str, Array]],
        rows: int,
        ended: Callable[[RunResult | Exception], None],
    ) -> None:
        """As `Runtime.run`. The parts have been copied and the runtime was asked when this returns; `ended` is called
        once, at once where it cannot even begin."""
