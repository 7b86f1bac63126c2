"""Names, paths and wire messages that operator and worker agree on.

The operator imports this module of the worker and no other; it imports nothing but msgspec and the
standard library. Times are Unix seconds, sizes are bytes, durations carry their unit in the name.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final
from urllib.parse import urlsplit

import msgspec

GROUP: Final = "batchwright.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

# Labels: values are valid label values.
LABEL_DEPLOYMENT: Final = f"{GROUP}/deployment"
"""On every child of a ModelDeployment: its name."""
LABEL_KIND: Final = f"{GROUP}/accelerator"
"""On Deployments, model pods and benchmark Jobs: `kind_slug` of the accelerator kind."""
LABEL_JOB: Final = f"{GROUP}/inferencejob"
"""On every child of an InferenceJob: its name."""
LABEL_STEP: Final = f"{GROUP}/step"
"""On an InferenceJob's child Jobs and their pods: plan, run or commit."""
LABEL_BENCHMARK: Final = f"{GROUP}/benchmark"
"""On benchmark Jobs and their pods: "true"."""
LABEL_BENCHMARK_OPT_OUT: Final = f"{GROUP}/benchmark-opt-out"
"""On a Node, "true": never benchmark it (placeable as unbenchmarked)."""
LABEL_COMPONENT: Final = "app.kubernetes.io/component"
COMPONENT_MODEL: Final = "model"
COMPONENT_AGENT: Final = "agent"

# Annotations.
ANNOTATION_RECEIPT: Final = f"{GROUP}/placement"
"""On a placed pod: the receipt, JSON of `Receipt`."""
ANNOTATION_WAITING: Final = f"{GROUP}/placement-waiting"
"""On a gated pod that found no place: why, as `Reason: message` (NoFittingProcessor, AwaitingBenchmark, ..)."""
ANNOTATION_KIND: Final = f"{GROUP}/accelerator-kind"
"""On Deployments, model pods and benchmark Jobs: the accelerator kind, unabridged."""
ANNOTATION_NODE: Final = f"{GROUP}/node"
"""On benchmark Jobs: the node that is measured."""
ANNOTATION_REBENCHMARK: Final = f"{GROUP}/rebenchmark"
"""On an AcceleratorProfile; any new value asks for a new benchmark."""
ANNOTATION_EMULATED_DEVICE: Final = f"{GROUP}/emulated-device"
"""On a Node: JSON of `EmulatedDevice`."""

SCHEDULING_GATE: Final = f"{GROUP}/placement"
KIND_CPU: Final = "cpu"
KIND_EMULATED: Final = f"{GROUP}/emulated"
KIND_NVIDIA: Final = "nvidia.com/gpu"

# Ports and paths inside pods.
HTTP_PORT: Final = 8000
GRPC_PORT: Final = 8001
CONTROL_PORT: Final = 8090
AGENT_PORT: Final = 9105
OPERATOR_METRICS_PORT: Final = 8080

CONFIG_DIR: Final = "/etc/batchwright"
DEPLOYMENT_FILE: Final = f"{CONFIG_DIR}/deployment.json"
"""In model pods: the ModelDeployment (apiVersion, kind, metadata.name/namespace, spec with defaults applied)."""
JOB_FILE: Final = f"{CONFIG_DIR}/job.json"
"""In runner pods: JSON of `JobConfig`."""
FUNCTIONS_DIR: Final = f"{CONFIG_DIR}/functions"
"""In runner pods: one folder per ConfigMap of `spec.runner.configMaps`; each is put on sys.path."""
SCRIPTS_DIR: Final = f"{CONFIG_DIR}/scripts"
"""In model pods: one folder per ConfigMap named by an artifact's `script.configMapKeyRef`, one file per key."""
SECRETS_DIR: Final = "/etc/batchwright-secrets"
"""In the fetch container and in runner pods: one folder per Secret named by a `secretRef`, one file per key."""
TOKEN_FILE: Final = "/etc/batchwright-control/token"  # noqa: S105 - a path
IPC_DIR: Final = "/run/batchwright"
"""Shared memory-backed emptyDir of sidecar and runtimes: sockets and tensor slots."""
WEIGHTS_DIR: Final = "/var/lib/batchwright/weights"
DATA_DIR: Final = "/var/lib/batchwright/data"
TERMINATION_LOG: Final = "/dev/termination-log"
TERMINATION_MESSAGE_MAX_BYTES: Final = 4096

# Environment of containers.
ENV_KIND: Final = "BATCHWRIGHT_ACCELERATOR"
"""Accelerator kind of the pod, e.g. cpu."""
ENV_POD: Final = "BATCHWRIGHT_POD"
ENV_NODE: Final = "BATCHWRIGHT_NODE"
ENV_NAMESPACE: Final = "BATCHWRIGHT_NAMESPACE"
ENV_CPU_MILLIS: Final = "BATCHWRIGHT_CPU_MILLIS"
"""The container's CPU request in thousandths of a core (downward API, divisor 1m)."""
ENV_MEMORY_BUDGET: Final = "BATCHWRIGHT_MEMORY_BUDGET_BYTES"
ENV_DISPATCH_LOG: Final = "BATCHWRIGHT_DISPATCH_LOG"
"""Of the sidecar: the file of the dispatch log; unset: none is written."""
ENV_EMULATED_DEVICE: Final = "BATCHWRIGHT_EMULATED_DEVICE"
"""JSON of `EmulatedDevice`."""
EXIT_PERMANENT: Final = 42
"""Exit status of a runner whose failure no retry can mend (input changed, output not writable, bad task)."""
ENV_SHARD: Final = "JOB_COMPLETION_INDEX"

# HTTP.
HEADER_EXPECTED_WAIT: Final = "batchwright-expected-wait-ms"
"""On every answer of a sidecar: the wait that a new row of this model would meet now, in milliseconds."""
HEADER_BATCH_SIZE: Final = "batchwright-batch-size"
"""On every inference result of a sidecar: how many rows the batch had that the request ran in."""
STATE_PATH: Final = "/v1/state"
"""GET on the control port, `?after=REVISION&waitSeconds=N`: long-poll; answers as soon as revision > after."""

LATENCY_BOUNDS_MS: Final = tuple(round(0.5 * 1.2**i, 3) for i in range(64))
"""Upper bounds in ms of the pooled latency histograms (10 % precision, up to 48 s); an overflow bucket follows."""


class _Message(msgspec.Struct, kw_only=True, frozen=True, rename="camel", omit_defaults=False):
    """A wire message; field names are camelCase in JSON; unknown fields are ignored (older peers)."""


class EmulatedDevice(_Message, kw_only=True, frozen=True):
    """The emulated accelerator: one batch of n rows takes fixed + n * perRow microseconds, alone on its device."""

    fixed_microseconds: int = 10_000
    per_row_microseconds: int = 2_000
    memory_bytes: int = 1 << 30


# --- the sidecar's state -------------------------------------------------------------------------


class ChangeState(_Message, kw_only=True, frozen=True):
    """A change of batch size: when, from what, to what, and why (`reason` is CamelCase, `message` a sentence)."""

    time: float
    from_size: int
    to_size: int
    reason: str
    message: str


class ModelState(_Message, kw_only=True, frozen=True):
    """One model in one replica. Counters run since the sidecar started."""

    name: str
    state: str
    """Loading, Ready, Unloaded or Failed."""
    message: str = ""
    batch_size: int
    trend: str = "Flat"
    trend_z: float = 0.0
    latency_target_met: bool | None = None
    """None: no target, or nothing observed in the last window."""
    searching: bool = True
    throughput: float = 0.0
    """Rows per second over the last window."""
    queue_length: int = 0
    latency_counts: list[int] = []
    """Requests per bucket of LATENCY_BOUNDS_MS (one more for overflow) over the last window."""
    rows_total: int = 0
    refused_total: int = 0
    failed_total: int = 0
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


class SidecarState(_Message, kw_only=True, frozen=True):
    """Answer of a sidecar's STATE_PATH. `revision` grows when something worth a status write changed."""

    revision: int
    time: float
    ready: bool
    message: str = ""
    models: list[ModelState]
    devices: list[DeviceState] = []


# --- benchmark ----------------------------------------------------------------------------------


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
    seconds: float = 0.0
    error: str = ""


# --- InferenceJob -------------------------------------------------------------------------------


class JobConfig(_Message, kw_only=True, frozen=True):
    """What a runner pod is told: the job's name, namespace, uid, `spec` (as applied, defaults included), and
    for each deployment named by a task the host name of its headless Service."""

    name: str
    namespace: str
    uid: str
    spec: dict[str, object]
    endpoints: dict[str, str] = {}
    """ModelDeployment name -> "host:port" (HTTP) of the headless Service; all its addresses are replicas."""


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


# --- placement receipts --------------------------------------------------------------------------


class RunnerUp(_Message, kw_only=True, frozen=True):
    """A candidate that lost."""

    node: str
    processor: str
    load: str


class Terms(_Message, kw_only=True, frozen=True):
    """The weighted, normalised terms that add up to the load; decimal strings."""

    utilization: str
    memory: str
    capacity: str
    pending: str


class Receipt(_Message, kw_only=True, frozen=True):
    """Why a pod is where it is; annotation ANNOTATION_RECEIPT."""

    node: str
    processor: str
    load: str
    terms: Terms
    runners_up: list[RunnerUp] = []
    predicted_throughput: float | None = None
    decided_time: str = ""
    """RFC 3339."""
    reason: str = ""
    """In words."""


# --- pure mappings -------------------------------------------------------------------------------


def kind_slug(kind: str) -> str:
    """Accelerator kind as a DNS label: `nvidia.com/gpu` -> `nvidia-com-gpu`."""
    return re.sub(r"[^a-z0-9]+", "-", kind.lower()).strip("-")[:40]


def child_name(*parts: str, limit: int = 63) -> str:
    """Parts joined by '-', cut to `limit` with a digest of the whole where that is needed to stay unique."""
    name = "-".join(parts)
    if len(name) <= limit:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: limit - 9].rstrip('-.')}-{digest}"


def claim_of(uri: str) -> str | None:
    """Name of the PersistentVolumeClaim of a `pvc://claim/path` URI, None for other schemes."""
    parts = urlsplit(uri)
    return parts.netloc if parts.scheme == "pvc" else None


def weights_path(uri: str) -> str:
    """Where the artifact of this URI lies in a runtime container.

    `pvc://claim/a/b.onnx` -> WEIGHTS_DIR/pvc/claim/a/b.onnx (the claim is mounted read-only there);
    `file:///x` -> /x (local mode); anything else is fetched to WEIGHTS_DIR/fetched/DIGEST/BASENAME.
    """
    parts = urlsplit(uri)
    if parts.scheme == "pvc":
        return f"{WEIGHTS_DIR}/pvc/{parts.netloc}/{parts.path.lstrip('/')}"
    if parts.scheme == "file":
        return parts.path
    digest = hashlib.sha256(uri.encode()).hexdigest()[:16]
    return f"{WEIGHTS_DIR}/fetched/{digest}/{parts.path.rstrip('/').rsplit('/', 1)[-1] or 'artifact'}"


def data_path(uri: str) -> str:
    """Where runner pods see an input or output URI: `pvc://claim/x` -> DATA_DIR/pvc/claim/x, others unchanged."""
    parts = urlsplit(uri)
    if parts.scheme == "pvc":
        return f"{DATA_DIR}/pvc/{parts.netloc}/{parts.path.lstrip('/')}"
    return uri
