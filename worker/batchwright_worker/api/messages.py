"""Messages between the operator and its pods, as JSON with camelCase keys."""

from __future__ import annotations

from typing import Final

import msgspec

LATENCY_BOUNDS_MS: Final = tuple(round(0.5 * 1.2**i, 3) for i in range(64))
"""Upper bounds in ms of the pooled latency histograms (10 % precision, up to 48 s); an overflow bucket follows."""


class _Message(msgspec.Struct, kw_only=True, frozen=True, rename="camel", omit_defaults=False):
    """A wire message; field names are camelCase in JSON; unknown fields are ignored (older peers)."""


class EmulatedDevice(_Message, kw_only=True, frozen=True):
    """The emulated accelerator: one batch of n rows takes fixed + n * perRow microseconds, alone on its device."""

    fixed_microseconds: int = 10_000
    per_row_microseconds: int = 2_000
    memory_bytes: int = 1 << 30


class ChangeState(_Message, kw_only=True, frozen=True):
    """A change of batch size: when, from what, to what, and why (`reason` is CamelCase, `message` a sentence)."""

    time: float
    from_size: int
    to_size: int
    reason: str
    message: str
    rule: str = ""
    """As in TuningState."""


class FitState(_Message, kw_only=True, frozen=True):
    """The time of a batch of n rows from its start to its answers, as fitted: fixed + n * per row on a line (`linear`),
    else by its median per size. From `knee` rows on the device serves no more per second. `batches` it is made of."""

    fixed_milliseconds: float
    per_row_milliseconds: float
    linear: bool
    knee: int
    batches: int


class BoundsState(_Message, kw_only=True, frozen=True):
    """What bounds a batch of the shape that ran last, in rows, each with those before it: the tuned `size`; the `knee`
    from which more is no faster; the `reach` of what was measured; n* of admission (`in_time`); what leaves other
    models in time (`fair_share`); device `memory`. `cap`: most rows of a batch, bounded by `bound_by` (Size, Knee,
    Reach, InTime, FairShare or Memory)."""

    size: int
    knee: int
    reach: int
    in_time: int
    fair_share: int
    memory: int
    cap: int
    bound_by: str


class HoldState(_Message, kw_only=True, frozen=True):
    """Of the last windows (at most 8) since the size changed: the reason and the rule of most that held it (empty: none
    did), what bounded batches at the end of most (empty: none has ended), and the median of that bound in rows."""

    reason: str = ""
    rule: str = ""
    bound_by: str = ""
    cap: int = 0


class TuningState(_Message, kw_only=True, frozen=True):
    """How a model's batch size was decided when its last window ended.

    `rule`: the part of the methods that decided (FirstSize, Step and FittedStep of A6, TrendGuard of A7, StopRule of
    A8, Idle); `reason` and `message`: why, e.g. why the size is held. `usually`: the same over the last windows, which
    does not turn with every one. `target_milliseconds` and `target_throughput`:
    what was asked for. `published_throughput`: batch size / p95 (A8), `possible_throughput`: what full batches of this
    size would serve as fitted, both in rows per second."""

    controller: str
    rule: str = "FirstSize"
    reason: str = "Initial"
    message: str = ""
    usually: HoldState
    proposed_size: int
    p95_milliseconds: float = 0.0
    target_milliseconds: float | None = None
    target_throughput: float | None = None
    published_throughput: float = 0.0
    possible_throughput: float = 0.0
    fit: FitState | None = None
    """None: no batch has run yet."""
    bounds: BoundsState


class ModelState(_Message, kw_only=True, frozen=True):
    """One model in one replica. Counters run since the sidecar started."""

    name: str
    state: str
    """Loading, Ready, Unloaded or Failed."""
    message: str = ""
    """Why it is not Ready; of a Ready one what there is to know: why it is served Whole, a failed warm-up."""
    mode: str = ""
    """Rows or Whole, as batching.mode says it; empty before the first load."""
    batch_size: int
    trend: str = "Flat"
    trend_z: float = 0.0
    latency_target_met: bool | None = None
    """None: no latency target, or nothing observed in the last window."""
    searching: bool = True
    throughput: float = 0.0
    """Rows per second over the last window."""
    queue_length: int = 0
    latency_counts: list[int] = []
    """Requests per bucket of LATENCY_BOUNDS_MS (one more for overflow) over the last window."""
    rows_total: int = 0
    refused_total: int = 0
    failed_total: int = 0
    tuning: TuningState | None = None
    """None: of a sidecar that does not tell."""
    changes: list[ChangeState] = []
    """The newest changes of batch size, oldest first, at most 8; times identify them."""
    layerwise: str = ""
    """Served layer by layer: how it was cut and what its units take, in a sentence."""


class StreamState(_Message, kw_only=True, frozen=True):
    """A device that serves layer by layer; seconds since its runtime began. Idle: an engine waited although a batch
    was there (compute for weights, memory for room)."""

    compute_busy_seconds: float
    compute_idle_seconds: float
    memory_busy_seconds: float
    memory_idle_seconds: float
    decision_seconds: float
    units: int
    bytes: int
    peak_bytes: int
    """Of weights in flight; never above `capacity_bytes`."""
    capacity_bytes: int


class DeviceState(_Message, kw_only=True, frozen=True):
    """One device of the pod: `busy_ratio` over the last window in [0, 1]."""

    kind: str
    device: str
    busy_ratio: float
    memory_used_bytes: int
    memory_bytes: int
    streams: StreamState | None = None
    """Where it serves layer by layer."""


class ConfigurationState(_Message, kw_only=True, frozen=True):
    """The configuration that a sidecar serves by: the `generation` of the ModelDeployment that it is of (0: it does not
    say), the `digest` of its text (`names.configuration_digest`), and why a newer one was not taken over (empty: there
    was none)."""

    generation: int
    digest: str
    message: str = ""


class SidecarState(_Message, kw_only=True, frozen=True):
    """Answer of a sidecar's STATE_PATH. `revision` grows when something worth a status write changed."""

    revision: int
    time: float
    ready: bool
    message: str = ""
    models: list[ModelState]
    devices: list[DeviceState] = []
    configuration: ConfigurationState | None = None
    """None: of a sidecar that does not tell, and reads it but once, when it starts."""


class LoadTableRow(_Message, kw_only=True, frozen=True):
    """Method A1: images/s of one service at this batch size; services that run at once before the total falls."""

    batch_size: int
    images_per_second: float
    max_services: int


class DeviceInfo(_Message, kw_only=True, frozen=True):
    """One device of a processor."""

    id: str
    memory_bytes: int
    mig_profile: str = ""


class BenchmarkResult(_Message, kw_only=True, frozen=True):
    """Termination message of a benchmark Job, at most 4 KiB. `error` empty: it worked."""

    kind: str
    product: str = ""
    driver: str = ""
    runtime_version: str = ""
    devices: list[DeviceInfo] = []
    load_table: list[LoadTableRow] = []
    capacity_images_per_second: float = 0.0
    scaling: float | None = None
    """What each of several devices does while all of them work, as a share of what one does alone; None: not
    measured."""
    seconds: float = 0.0
    error: str = ""


class TrustedServer(_Message, kw_only=True, frozen=True, omit_defaults=True):
    """How a runner verifies the certificate of a deployment that is served by TLS: `server_name` is to be in it;
    `ca_file`: PEM, the only CA that is trusted where the file exists. `cert_file`, `key_file`: PEM, what the runner
    shows of itself; empty: nothing."""

    server_name: str
    ca_file: str
    cert_file: str = ""
    key_file: str = ""


class JobConfig(_Message, kw_only=True, frozen=True):
    """The configuration of a runner pod: the job's name, namespace, uid, `spec` (as applied, defaults included), and
    for each deployment named by a task the host name of its headless Service."""

    name: str
    namespace: str
    uid: str
    spec: dict[str, object]
    endpoints: dict[str, str] = {}
    """ModelDeployment name -> "host:port" (HTTP) of the headless Service; all its addresses are replicas."""
    tls: dict[str, TrustedServer] = {}
    """The deployments that are served by TLS."""


class ItemFailure(_Message, kw_only=True, frozen=True):
    """One failed item; `item` is its id."""

    shard: int
    item: str
    task: str
    message: str


class TaskState(_Message, kw_only=True, frozen=True):
    """Counters of one task over the items of one shard."""

    name: str
    kind: str
    """CPU or Model."""
    succeeded: int = 0
    failed: int = 0
    rows: int = 0
    batches: int = 0
    """Model tasks: requests sent; rows / batches is the mean number of rows of a request."""
    mean_batch_size: float = 0.0
    """Model tasks: mean size of the batches that the rows ran in, as the sidecars report it."""
    latency_counts: list[int] = []


class RunnerState(_Message, kw_only=True, frozen=True):
    """Answer of a runner's STATE_PATH, and (final) the termination message of a shard's pod, where
    `latency_counts` is left out and `failures` is cut until it fits 4 KiB."""

    revision: int
    time: float
    shard: int
    items_total: int
    items_succeeded: int
    items_failed: int
    done: bool = False
    waiting_for: list[str] = []
    """Deployments that no replica of answers at present."""
    error: str = ""
    """Why the shard as a whole failed, with what to do; empty otherwise."""
    tasks: list[TaskState] = []
    failures: list[ItemFailure] = []


class PlanResult(_Message, kw_only=True, frozen=True):
    """Termination message of the plan pod."""

    shards: int = 0
    items: int = 0
    digest: str = ""
    files_left_out: int = 0
    """Files that lie with the input and are none of it (another suffix, results of other jobs)."""
    error: str = ""
    reason: str = ""
    """CamelCase, set with error: InputNotFound, InputEmpty, OutputNotWritable, InvalidTask, ..."""


class CommitResult(_Message, kw_only=True, frozen=True):
    """Termination message of the commit pod: exact totals."""

    items: int = 0
    succeeded: int = 0
    failed: int = 0
    digest: str = ""
    tasks: list[TaskState] = []
    failures: list[ItemFailure] = []
    error: str = ""
    reason: str = ""


class RunnerUp(_Message, kw_only=True, frozen=True):
    """A candidate that lost."""

    node: str
    processor: str
    load: str


class Receipt(_Message, kw_only=True, frozen=True):
    """Why a pod is where it is; annotation ANNOTATION_RECEIPT."""

    node: str
    processor: str
    load: str
    terms: dict[str, str]
    """The weighted, normalised terms that add up to the load, by name; decimal strings. What is unknown is missing."""
    state_seconds: float | None = None
    """The utilization is the mean of this many seconds; None: it is unknown."""
    state_age_seconds: float | None = None
    """How long before the decision those seconds ended."""
    policy: str = ""
    """How the load was computed: Additive, ThroughputLeft or Forecast."""
    runners_up: list[RunnerUp] = []
    predicted_throughput: float | None = None
    decided_time: str = ""
    """RFC 3339."""
    reason: str = ""
    """In words."""
