"""Control messages between sidecar and runtime, as msgspec structs (msgpack, arrays with a tag).

The sidecar sends requests; the runtime responds to each exactly once, with its `call`. Batches and unloads get their
responses in the order of the requests; a load may be overtaken where the backend can load while a batch runs.
"""

from __future__ import annotations

import msgspec

from batchwright_worker.inference.runtime import (
    BatchMode,
    BatchPlan,
    StreamCounters,
    StreamedModel,
    TensorSpec,
    WarmUpTensor,
)


class EmulatedSource(msgspec.Struct, frozen=True, array_like=True):
    """An emulated model: a batch of n rows takes fixed + n * per_row microseconds and bytes_per_row * n bytes."""

    fixed_microseconds: int
    per_row_microseconds: int
    weights_bytes: int
    bytes_per_row: int
    load_milliseconds: int
    load_overlaps: bool = False


class ModelSource(msgspec.Struct, frozen=True, array_like=True):
    """Where a runtime process loads a model from. `path` is empty for emulated models; `script` is a Python module's
    name or the path of a file that ends in .py, empty where the format needs none."""

    name: str
    format: str
    path: str
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    script: str = ""
    emulated: EmulatedSource | None = None
    mode: BatchMode | None = None
    """As the manifest says; None: to be found out."""
    warmup: tuple[WarmUpTensor, ...] = ()
    padding: int = 0
    """The multiple that a variable dimension is padded to; 0: none is."""
    sha256: str = ""
    """As the manifest wants it, which is checked before a pod's runtime starts; empty: it does not say."""


class Placed(msgspec.Struct, frozen=True, array_like=True):
    """A tensor inside a slot: `shape` with the batch dimension first, bytes at [offset, offset + size)."""

    name: str
    datatype: str
    shape: list[int]
    offset: int
    size: int


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """First message of a connection. Slots of other sessions may be forgotten."""

    call: int
    session: str
    slots: str


class Load(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Load a model and run one warm-up inference; loading what is loaded already does nothing. `plan` as an earlier
    load has found it; without one the model is tried, unless `untried` says why it must not be. `beside_batches`: on a
    thread of its own, while batches of other models run."""

    call: int
    source: ModelSource
    plan: BatchPlan | None = None
    untried: str = ""
    beside_batches: bool = False


class Unload(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Unload a model and give its memory back; unloading what is not loaded does nothing."""

    call: int
    model: str


class Run(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Run one batch of `rows` rows whose inputs lie in `slot`; outputs are written behind `offset_free`."""

    call: int
    model: str
    rows: int
    slot: str
    inputs: list[Placed]
    offset_free: int


RuntimeRequest = Hello | Load | Unload | Run


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """Response to Hello: the runtime process and its device. memory_bytes: what models and batches may use in all."""

    call: int
    pid: int
    device: str
    memory_bytes: int
    memory_used_bytes: int


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """Response to Load. `memory_bytes`: measured growth by the weights; `warmup_bytes`: more, by one row."""

    call: int
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    memory_bytes: int
    warmup_bytes: int
    seconds: float
    memory_used_bytes: int
    streamed: StreamedModel | None = None
    """Layerwise: how the model was cut."""
    plan: BatchPlan | None = None
    message: str = ""
    """What went wrong in its warm-up."""
    digest: str = ""
    """Of what the model was made of (`runtime/model_digests.py`); empty where it cannot be told."""


class Unloaded(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """Response to Unload: what the process uses now."""

    call: int
    memory_used_bytes: int


class Ran(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """Response to Run. `device_seconds`: the run alone; `batch_bytes`: memory above the loaded weights at its
    highest, -1 where it was not measured; `slot_bytes`: the slot's size (a runtime may have made it larger)."""

    call: int
    outputs: list[Placed]
    device_seconds: float
    batch_bytes: int
    slot_bytes: int
    memory_used_bytes: int
    row_errors: dict[int, str] = {}
    """Rows that failed on their own; what the outputs hold for them means nothing."""
    retained_bytes: int = 0
    """Part of batch_bytes that the model's allocator keeps for its next batch; it counts as used."""
    input_seconds: float = 0.0
    """Time from the request to the run, and from the run's end to the outputs' last byte in the slot."""
    output_seconds: float = 0.0
    streams: StreamCounters | None = None
    """Layerwise: the counters of both engines."""


class RequestFailed(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """Response to a request that failed. kind: OutOfMemory, WrongOutputs, Refused (a load that only another manifest
    or artifact helps), or Failed for everything else; `message` is the model's or the system's own."""

    call: int
    kind: str
    message: str


RuntimeResponse = Welcome | Loaded | Unloaded | Ran | RequestFailed
