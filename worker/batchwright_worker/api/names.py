"""Names and paths that operator and worker agree on.

Imports nothing but the standard library and `uris`. Times are Unix seconds, sizes are bytes, durations carry their unit
in the name.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from batchwright_worker.api.uris import base_name, oci_address, path_of, split_uri

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
ANNOTATION_LOAD_TABLE: Final = f"{GROUP}/load-table"
"""On a placed pod: JSON, the list of `LoadTableRow` of the processor that it was placed on."""
ANNOTATION_WAITING: Final = f"{GROUP}/placement-waiting"
"""On a gated pod that found no place: why, as `Reason: message` (NoFittingProcessor, AwaitingBenchmark, ..)."""
ANNOTATION_KIND: Final = f"{GROUP}/accelerator-kind"
"""On Deployments, model pods and benchmark Jobs: the accelerator kind, unabridged."""
ANNOTATION_NODE: Final = f"{GROUP}/node"
"""On benchmark Jobs: the node that is measured."""
ANNOTATION_REBENCHMARK: Final = f"{GROUP}/rebenchmark"
"""On an AcceleratorProfile; any new value asks for a new benchmark."""
ANNOTATION_HOLD_UPGRADES: Final = f"{GROUP}/hold-upgrades"
"""On a ModelDeployment, "true": its pods are not replaced because of an upgrade, even if they should be."""
ANNOTATION_RESTARTED_AT: Final = f"{GROUP}/restarted-at"
"""On a ModelDeployment; any new value replaces its pods, by those that this version of the operator makes."""
ANNOTATION_RETRY_OF: Final = f"{GROUP}/retry-of"
"""On an InferenceJob that `kubectl batchwright retry` has made: whose failed items it runs again."""
ANNOTATION_APPLIED: Final = f"{GROUP}/applied"
"""On what the operator makes: the digest of what it last applied."""
ANNOTATION_EMULATED_DEVICE: Final = f"{GROUP}/emulated-device"
"""On a Node: JSON of `EmulatedDevice`."""

SCHEDULING_GATE: Final = f"{GROUP}/placement"
KIND_CPU: Final = "cpu"
KIND_EMULATED: Final = f"{GROUP}/emulated"

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
TLS_DIR: Final = "/etc/batchwright-tls"
"""In model pods: the sidecar's certificate. In runner pods: the CA of each deployment's, in a folder of its name."""
CLIENT_CA_DIR: Final = "/etc/batchwright-client-ca"
"""In model pods: who signs clients' certificates."""
CLIENT_TLS_DIR: Final = "/etc/batchwright-client-tls"
"""In runner pods: what they show to each deployment that asks for certificates, in a folder of its name."""
SECRETS_DIR: Final = "/etc/batchwright-secrets"
"""In the fetch container and in runner pods: one folder per Secret named by a `secretRef`, one file per key."""
TOKEN_FILE: Final = "/etc/batchwright-control/token"  # noqa: S105 - a path
IPC_DIR: Final = "/run/batchwright"
"""Shared memory-backed emptyDir of sidecar and runtimes: sockets and tensor slots."""
WEIGHTS_DIR: Final = "/var/lib/batchwright/weights"
FETCHED_DIR: Final = f"{WEIGHTS_DIR}/fetched"
"""An emptyDir: what the fetch container has brought, and links into CACHE_DIR."""
CACHE_DIR: Final = "/var/lib/batchwright/cache"
"""The namespace's part of the node's cache of weights, at the same path in all containers."""
DATA_DIR: Final = "/var/lib/batchwright/data"
TERMINATION_LOG: Final = "/dev/termination-log"
TERMINATION_MESSAGE_MAX_BYTES: Final = 4096


def runtime_live_path(index: int) -> str:
    """On the control port: is the runtime with this number still to be waited for?"""
    return f"/v1/runtimes/runtime-{index}/live"


LIVE_FIELDS: Final = (
    "targets.latencyMilliseconds",
    "targets.throughput",
    "limits.runMilliseconds",
    "limits.loadMilliseconds",
    "batching.minSize",
    "batching.maxSize",
    "batching.initialSize",
    "batching.step",
    "batching.windowMilliseconds",
    "batching.trendLength",
    "batching.maxQueueDelayMilliseconds",
    "batching.maxQueueLength",
    "batching.controller",
)
"""Fields of a model in the configuration that a sidecar takes over as it runs. Not `batching.mode` and
`batching.padding`, which decide how the model is loaded and which rows share a batch, and what waits has been sorted
by them."""

# Environment of containers.
ENV_KIND: Final = "BATCHWRIGHT_ACCELERATOR"
"""Accelerator kind of the pod, e.g. cpu."""
ENV_POD: Final = "BATCHWRIGHT_POD"
ENV_NODE: Final = "BATCHWRIGHT_NODE"
ENV_NAMESPACE: Final = "BATCHWRIGHT_NAMESPACE"
ENV_CPU_MILLIS: Final = "BATCHWRIGHT_CPU_MILLIS"
"""The container's CPU request in thousandths of a core (downward API, divisor 1m)."""
ENV_MEMORY_BUDGET: Final = "BATCHWRIGHT_MEMORY_BUDGET_BYTES"
ENV_REQUEST_MEMORY: Final = "BATCHWRIGHT_REQUEST_MEMORY_BYTES"
"""Of the sidecar: what requests may hold of its memory; unset: a share of its limit."""
ENV_WAS_READY: Final = "BATCHWRIGHT_WAS_READY_FILE"
"""Of the sidecar: the file that says that this pod has been ready; unset: only this process knows."""
ENV_STUCK_SECONDS: Final = "BATCHWRIGHT_STUCK_SECONDS"
"""In sidecars: not live when the event loop has not turned for so long."""
ENV_CACHE: Final = "BATCHWRIGHT_CACHE"
"""Of fetch, sidecar, `serve` and `run`: the folder of the cache of weights; unset in pods: none."""
ENV_CACHE_BYTES: Final = "BATCHWRIGHT_CACHE_BYTES"
ENV_CACHE_KEEP_FREE: Final = "BATCHWRIGHT_CACHE_KEEP_FREE_PERCENT"
ENV_SERVER_NAME: Final = "BATCHWRIGHT_SERVER_NAME"
"""Of the sidecar: the name in the server's metadata."""
ENV_DISPATCH_LOG: Final = "BATCHWRIGHT_DISPATCH_LOG"
"""Of the sidecar: the file of the dispatch log; unset: none is written."""
ENV_EMULATED_DEVICE: Final = "BATCHWRIGHT_EMULATED_DEVICE"
"""JSON of `EmulatedDevice`."""
ENV_DEVICES: Final = "BATCHWRIGHT_DEVICES"
"""Of a benchmark: how many of the resource its pod has; unset: one."""
ENV_LOAD_TABLE: Final = "BATCHWRIGHT_LOAD_TABLE"
"""Of the sidecar: the value of ANNOTATION_LOAD_TABLE, empty where the processor was not measured."""
EXIT_PERMANENT: Final = 42
"""Exit status of a runner whose failure no retry can cure (input changed, output not writable, bad task)."""
EXIT_FAILED_ITEMS: Final = 3
"""Of `batchwright-worker run`: the data set is whole, and some of its items failed."""
ENV_SHARD: Final = "JOB_COMPLETION_INDEX"

# HTTP.
CONFIG_DIGEST: Final = "digest:"
"""Parameter of a model's configuration, before a kind of accelerator: digest of what the model was loaded from."""
HEADER_EXPECTED_WAIT: Final = "batchwright-expected-wait-ms"
"""On every answer of a sidecar: the wait that a new row of this model would meet now, in milliseconds."""
HEADER_BATCH_SIZE: Final = "batchwright-batch-size"
"""On every inference result of a sidecar: how many rows the batch had that the request ran in."""
CONFIGURATION_PATH: Final = "/v1/configuration"
"""PUT on the control port: DEPLOYMENT_FILE's new text, of which only what is in LIVE_FIELDS may differ."""
STATE_PATH: Final = "/v1/state"
"""GET on the control port, `?after=REVISION&waitSeconds=N`: long-poll; answers as soon as revision > after."""


# --- pure mappings -------------------------------------------------------------------------------


def kind_slug(kind: str) -> str:
    """Accelerator kind as a DNS label: `nvidia.com/gpu` -> `nvidia-com-gpu`."""
    return re.sub(r"[^a-z0-9]+", "-", kind.lower()).strip("-")[:40]


def child_name(*parts: str, limit: int = 63) -> str:
    """Parts joined by '-', cut to `limit` with a digest of the whole where that is needed to stay unique."""
    name = "-".join(parts)
    return name if len(name) <= limit else digest_name(*parts, limit=limit)


def digest_name(*parts: str, limit: int = 63) -> str:
    """As `child_name`, always with a digest: a user may well call an object `x-replicas`, but not by accident
    `x-replicas-1c2d3e4f`."""
    name = "-".join(parts)
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: limit - 9].rstrip('-.')}-{digest}"


def configuration_digest(text: bytes) -> str:
    """What tells one text of DEPLOYMENT_FILE from another."""
    return hashlib.sha256(text).hexdigest()[:16]


def claim_of(uri: str) -> str | None:
    """Name of the PersistentVolumeClaim of a `pvc://claim/path` URI, None for other schemes."""
    parts = split_uri(uri)
    return parts.host if parts.scheme == "pvc" else None


def is_mounted(uri: str) -> bool:
    """Does the cluster, or this machine, bring it to where the runtime reads it, without a fetch?"""
    return split_uri(uri).scheme in ("pvc", "oci", "file")


def image_path(reference: str) -> str:
    """Where the image of an oci:// address is mounted in a model pod."""
    return f"{WEIGHTS_DIR}/oci/{hashlib.sha256(reference.encode()).hexdigest()[:16]}"


def weights_path(uri: str) -> str:
    """Where the artifact of this URI, a file or a folder, lies in a runtime container. Raises ValueError as `path_of`.

    `pvc://claim/a/b.onnx` -> WEIGHTS_DIR/pvc/claim/a/b.onnx (the claim is mounted read-only there);
    `oci://host/repository@digest/a.onnx` -> WEIGHTS_DIR/oci/DIGEST/a.onnx (the image is mounted read-only there);
    `file:///x%20y` -> /x y (local mode); anything else is fetched to WEIGHTS_DIR/fetched/DIGEST/BASENAME.
    """
    parts = split_uri(uri)
    if parts.scheme == "pvc":
        return f"{WEIGHTS_DIR}/pvc/{parts.host}/{path_of(uri)}"
    if parts.scheme == "file":
        return path_of(uri)
    if (image := oci_address(uri)) is not None:
        return f"{image_path(image.reference)}/{image.path}"
    digest = hashlib.sha256(uri.encode()).hexdigest()[:16]
    return f"{WEIGHTS_DIR}/fetched/{digest}/{base_name(uri)}"


def data_path(uri: str) -> str:
    """Where runner pods see an input or output URI: `pvc://claim/x` -> DATA_DIR/pvc/claim/x, `file:///x` -> /x; others
    unchanged. Raises ValueError as `path_of`."""
    parts = split_uri(uri)
    if parts.scheme == "pvc":
        return f"{DATA_DIR}/pvc/{parts.host}/{path_of(uri)}"
    return path_of(uri) if parts.scheme == "file" else uri
