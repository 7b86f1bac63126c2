"""Settings of the operator: a YAML file (camelCase), then environment variables BATCHWRIGHT_SNAKE_CASE on top.

In an environment variable a text field is taken as it is; any other field is read as YAML, so
`BATCHWRIGHT_SCRAPE_INTERVAL_SECONDS=2.5` and `BATCHWRIGHT_ALLOWED_HOSTS='[models.example.org]'` both work.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml

from batchwright_operator.errors import SettingsError

ENV_PREFIX = "BATCHWRIGHT_"


class _Section(msgspec.Struct, kw_only=True, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A part of the settings; unknown names are errors."""


class Resources(_Section, kw_only=True, frozen=True):
    """Kubernetes resource requirements; quantities as texts."""

    requests: dict[str, str] = {}
    limits: dict[str, str] = {}

    def as_dict(self) -> dict[str, dict[str, str]]:
        """A fresh `resources` block of a container, empty parts left out."""
        parts = {"requests": dict(self.requests), "limits": dict(self.limits)}
        return {name: values for name, values in parts.items() if values}


class RuntimeEntry(_Section, kw_only=True, frozen=True):
    """One row of the runtime table: which container runs artifacts of a format on an accelerator kind."""

    accelerator: str = "*"
    """Accelerator kind; "*" is any kind without a row of its own."""
    format: str = "*"
    """Artifact format; "*" is any format without a row of its own."""
    image: str = ""
    """Empty: `worker_image`."""
    resources: Resources | None = None
    """None: `runtime_resources`."""
    env: dict[str, str] = {}


_RESTRICTED = {"cpu": "50m", "memory": "128Mi"}


class BenchmarkPod(_Section, kw_only=True, frozen=True):
    """One row of `benchmark_pods`: what benchmark pods of an accelerator kind need besides the image."""

    accelerator: str = "*"
    """Accelerator kind; "*" is any kind without a row of its own."""
    tolerations: list[dict[str, Any]] = []
    """As in a pod. Without any, tainted nodes are not measured: they are somebody's own."""
    node_selector: dict[str, str] = {}
    """Only nodes with these labels are measured."""
    runtime_class_name: str = ""
    image_pull_secrets: list[str] = []
    """Names of Secrets in the operator's namespace."""
    priority_class_name: str = ""


class WeightsCache(_Section, kw_only=True, frozen=True):
    """Where the pods of a node, or of the cluster, share fetched weights: exactly one of claim, csi and hostPath. Each
    namespace has a folder of its own there, and sees no other."""

    claim_name: str = ""
    """A PersistentVolumeClaim of this name in each namespace: ReadWriteMany (file systems with locks: NFS 4, CephFS,
    ..), or ReadWriteOnce where all pods of the namespace are on one node."""
    csi: dict[str, Any] = {}
    """An inline volume, as in a pod, of a driver whose volumes are folders of the node."""
    host_path: str = ""
    """A folder of every node, of group 65532 and mode 2775. Pod Security allows it in privileged namespaces alone."""
    namespaces: list[str] = []
    """Only pods of these have the cache, by shell patterns (`team-*`); empty: all."""
    max_bytes: int = 100 << 30
    """Of a namespace, on one volume; the least recently used weights that no pod holds go."""
    keep_free_percent: Annotated[int, msgspec.Meta(ge=0, le=99)] = 10
    """Of the volume's file system."""

    def __post_init__(self) -> None:
        given = [bool(self.claim_name), bool(self.csi), bool(self.host_path)]
        if given.count(True) != 1:
            raise ValueError("write exactly one of claimName, csi and hostPath")
        if self.host_path and not self.host_path.startswith("/"):
            raise ValueError(f"hostPath {self.host_path!r}: write an absolute path")

    def serves(self, namespace: str) -> bool:
        """Have pods of this namespace the cache?"""
        return not self.namespaces or any(fnmatchcase(namespace, pattern) for pattern in self.namespaces)


class Settings(_Section, kw_only=True, frozen=True):
    """The settings of an administrator. Durations carry their unit."""

    # Images.
    worker_image: str = ""
    """Of sidecars, runtimes, runners and benchmarks. Empty: that of the DaemonSet of agents, also when it changes."""
    runner_image: str = ""
    """Of runners alone, where the worker image is the smaller one for serving; empty: `worker_image`."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    runtime_table: list[RuntimeEntry] = []
    """Most specific row wins: (kind, format), (kind, *), (*, format), (*, *); none: the worker image."""
    sidecar_resources: Resources = Resources(requests={"cpu": "100m", "memory": "192Mi"}, limits={"memory": "512Mi"})
    """The sidecar divides its memory limit: what requests may hold follows from it, and more are refused."""
    runtime_resources: Resources = Resources(requests={"cpu": "200m", "memory": "384Mi"})
    runner_resources: Resources = Resources(requests={"cpu": "100m", "memory": "256Mi"})
    benchmark_resources: Resources = Resources(requests={"cpu": "100m", "memory": "256Mi"})
    fetch_resources: Resources = Resources(requests=_RESTRICTED)
    otlp_env: dict[str, str] = {}
    """OpenTelemetry's environment variables (OTEL_EXPORTER_OTLP_ENDPOINT, ..) of sidecars, runners and benchmarks; the
    operator has its own in its Deployment. With an endpoint they send traces by OTLP, else nothing."""
    sidecar_env: dict[str, str] = {}
    """Environment variables of all sidecars, for example OTEL_EXPORTER_OTLP_ENDPOINT (traces) or
    BATCHWRIGHT_DISPATCH_LOG (a file under /tmp that `batchwright-worker replay` reads)."""
    fetch_env: dict[str, str] = {}
    """Environment variables of what fetches (artifacts before a pod starts, and runners): HTTPS_PROXY and NO_PROXY,
    HF_ENDPOINT, AWS_ENDPOINT_URL, MLFLOW_TRACKING_URI, ..; no secrets, which pods would show."""

    # Where things are.
    operator_namespace: str = "batchwright-system"
    agent_namespace: str = "batchwright-agent"
    prometheus_url: str = ""
    """Take samples from this Prometheus instead of the agents."""
    prometheus_timeout_seconds: float = 5.0

    # Benchmark (A1).
    benchmark_budget_seconds_cpu: int = 120
    benchmark_budget_seconds: int = 60
    benchmark_idle_threshold: float = 0.3
    """A processor below this utilization counts as idle."""
    benchmark_idle_wait_seconds: float = 600.0
    """After that the node is unbenchmarked and placeable; nor does a pod wait for longer for one to be measured."""
    spot_check_seconds: float = 3600.0
    """How often the drift sentinel measures a processor for some seconds, when that is idle; 0: never."""
    spot_check_budget_seconds: int = 10
    benchmark_parallelism: int = 4
    """Benchmark Jobs at once in the cluster."""
    benchmark_kinds: tuple[str, ...] = ("*",)
    """Patterns of the accelerator kinds that are measured; others are placed by utilization alone."""
    benchmark_class_labels: list[str] = []
    """Node labels that tell classes of nodes apart, besides instance type, CPU model and product: a node counts as its
    class was measured until it is measured itself."""
    benchmark_pods: list[BenchmarkPod] = []
    """Tolerations, RuntimeClass, pull secrets and node selector of benchmark pods, by kind."""
    benchmark_schedule_seconds: float = 60.0
    """A benchmark whose pod has no node after so long is given up, and tried again later."""
    benchmark_start_seconds: float = 480.0
    """A benchmark that does not run after so long (its image is still being pulled) is given up likewise."""
    benchmark_retry_seconds: float = 60.0
    """The first wait after a failed benchmark; each further one is twice as long, up to 6 hours."""
    publish_resource_slices: bool = False
    """Publish what was measured as a ResourceSlice per node too, for readers of those (Kubernetes 1.34 and newer; it
    takes rights of its own, see docs/accelerators.md). Off, as nothing of ours reads them."""
    image_architectures: list[str] = []
    """Architectures that the worker image is built for, e.g. [amd64, arm64]; empty: that of the operator's node."""

    # Telemetry (A3) and placement (A5).
    scrape_interval_seconds: float = 5.0
    sample_stale_seconds: float = 30.0
    placement_window_seconds: float = 60.0
    """Pods are placed by the mean of samples over so long, without what ends by itself; 0: by the newest sample."""
    rebalance_window_seconds: float = 60.0
    """How often a replica's place is looked at; five times in a row it has to be bad before it is moved."""
    rebalance_threshold: float = 0.3
    """Of the fastest processor of its kind: how much more of it a replica would have to get elsewhere to be moved."""
    rebalance_cooldown_seconds: float = 600.0
    """How long nothing of a deployment is moved after a move."""
    rebalance_moves_at_once: int = 1
    """Moves under way in the cluster; 0: none at all."""
    placement_pin: Literal["Auto", "Nomination", "Affinity"] = "Auto"
    """How a pod gets to the node that was chosen. Nomination: kube-scheduler is told to try that node first, and takes
    another one where the pod does not fit there after all; the pod keeps no trace of it, so that cluster-autoscaler and
    Karpenter may move it. Affinity: to that node alone, for good; for schedulers that know no nominations. Auto:
    Affinity in bursts, where the second write of a nomination would be felt, else Nomination."""
    unfit_seconds: float = 30.0
    """A replica without a fit for this long changes its kind; a pod without a fit anywhere is released unpinned."""

    # Status.
    status_min_interval_seconds: float = 10.0
    """What pods report of their models (batch sizes, targets met) is written at most this often; of many
    ModelDeployments less often (`status/write_policy`). A job's progress has `job_status_min_interval_seconds`."""
    status_metric_interval_seconds: float = 60.0
    """So far apart are writes for measured numbers alone; /metrics always has the newest."""
    status_metric_threshold: float = 0.10
    """They are written where one moved by more than this share."""
    job_status_min_interval_seconds: float = 2.0
    """Of many running InferenceJobs each writes its progress less often: four times a second all together."""

    # Who may call models.
    inference_open_to: Literal["SameNamespace", "Everywhere"] = "SameNamespace"
    """What a ModelDeployment without `networkPolicy` lets in. Everywhere is what builds before 0.1.0 did."""

    # Artifacts and data.
    allowed_hosts: list[str] = []
    """Hosts of https, s3 and gs URIs; empty: every public host. `*.example.org` matches below it."""
    allow_private_addresses: bool = False
    allow_http: bool = False
    weights_cache: WeightsCache | None = None
    """Unset: each pod fetches for itself. `docs/models.md` says which volume suits whom."""

    # Upgrades.
    upgrade_policy: Literal["Required", "All"] = "Required"
    """Which pods are replaced because of an upgrade of the operator, its worker image or its settings. Required: those
    that do not work with this operator. All: every pod that would be made otherwise now. What users change is rolled
    out at once in any case."""
    upgrades_at_once: int = 1
    """ModelDeployments that may be rolled out because of an upgrade at a time, in the whole cluster; the next one
    follows when all pods of one are available. 0: none, upgrades pause."""

    # The operator itself.
    watch_namespaces: list[str] = []
    """Exact names: only these namespaces are looked at, by rights in each of them (`manifests/overlays/namespaced`).
    Pods of others do not count as taking room on nodes then: what does not fit is placed again. Empty: all."""
    resync_seconds: float = 300.0
    workers: int = 16
    watch_stale_seconds: float = 180.0
    """A watch without an event or a bookmark for this long is broken and is opened again."""
    list_page_size: int = 500
    control_key_secret: str = "batchwright-control-key"  # noqa: S105 - a name
    lease_name: str = "batchwright-operator"
    reconcilers: list[str] = []
    """`module:Class` per reconciler; empty: those of the product (see process/registry.py). For tests."""
    backgrounds: list[str] | None = None
    """As `reconcilers`; None: those of the product, unless `reconcilers` is set."""

    def runtime_for(self, accelerator: str, artifact_format: str) -> RuntimeEntry:
        """The row for this kind and format, with image and resources filled in."""
        rows = {(row.accelerator, row.format): row for row in self.runtime_table}
        wanted = [(accelerator, artifact_format), (accelerator, "*"), ("*", artifact_format), ("*", "*")]
        row = next((rows[key] for key in wanted if key in rows), RuntimeEntry())
        return msgspec.structs.replace(
            row, image=row.image or self.worker_image, resources=row.resources or self.runtime_resources
        )

    def benchmark_pod_for(self, accelerator: str) -> BenchmarkPod:
        """The row for this kind."""
        rows = {row.accelerator: row for row in self.benchmark_pods}
        return rows.get(accelerator) or rows.get("*") or BenchmarkPod()

    def benchmark_budget_for(self, accelerator: str) -> int:
        """Seconds that one benchmark of this kind may measure."""
        return self.benchmark_budget_seconds_cpu if accelerator == "cpu" else self.benchmark_budget_seconds


def load_settings(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Settings from an optional file and the environment. Raises SettingsError that names file or variable."""
    values: dict[str, Any] = _read(path) if path else {}
    for field in msgspec.structs.fields(Settings):
        variable = ENV_PREFIX + field.name.upper()
        if variable in environ:
            values[field.encode_name] = _value(variable, environ[variable], field.type)
    try:
        return msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        raise SettingsError(f"settings{f' in {path}' if path else ''}: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"settings file {path}: {error}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise SettingsError(f"settings file {path}: write a mapping of settings, e.g. `scrapeIntervalSeconds: 5`")
    return loaded


def _value(variable: str, text: str, kind: object) -> Any:
    if kind is str or (not isinstance(kind, type) and "Literal" in str(kind)):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"environment variable {variable}: {error}") from error
