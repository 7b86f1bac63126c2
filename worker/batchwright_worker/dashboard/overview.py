"""What the page draws, and `kubectl batchwright status` tells: processors, deployments, jobs, and what is wrong.

Values as JSON with camelCase keys; what is not known is left out. Times are Unix seconds, rates are per second. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import msgspec

Level = Literal["ok", "busy", "idle", "warning", "error"]
"""ok: works; busy: on its way by itself; idle: has nothing to do; warning: look at it; error: somebody has to act."""
WORST_FIRST: Final[tuple[Level, ...]] = ("error", "warning", "busy", "ok", "idle")


class View(msgspec.Struct, kw_only=True, frozen=True, rename="camel", omit_defaults=True):
    """A part of an overview."""


class Finding(View, kw_only=True, frozen=True):
    """Something to know: about which object, why (`reason` is CamelCase), what to do, and a command that says more."""

    level: Level
    kind: str
    name: str
    namespace: str = ""
    reason: str
    text: str
    command: str = ""


class ProcessorView(View, kw_only=True, frozen=True):
    """One kind of accelerator on one node. `capacity`: images/s of one device; shares in [0, 1]."""

    id: str
    """node/kind"""
    node: str
    kind: str
    level: Level
    product: str = ""
    slots: int = 0
    reason: str = ""
    message: str = ""
    capacity: float | None = None
    node_capacity: float | None = None
    load_table: list[tuple[int, float, int]] = []
    """Method A1: batch size, images/s, services that run at once."""
    estimated_from: str = ""
    benchmarked_at: float | None = None
    utilization: float | None = None
    memory: float | None = None
    sampled_at: float | None = None
    pods: int = 0
    """Pods of ours that run models here."""


class ReceiptView(View, kw_only=True, frozen=True):
    """Why a pod is where it is (method A4): the terms add up to the load."""

    load: float | None = None
    terms: dict[str, float] = {}
    runners_up: list[tuple[str, str, float | None]] = []
    """Node, processor, load of the candidates that lost."""
    reason: str = ""
    policy: str = ""
    predicted: float | None = None
    observed: float | None = None
    decided_at: float | None = None


class PodView(View, kw_only=True, frozen=True):
    """One replica."""

    name: str
    node: str = ""
    processor: str = ""
    ready: bool = False
    message: str = ""
    receipt: ReceiptView | None = None


class ServedModelView(View, kw_only=True, frozen=True):
    """One model over all replicas; latencies in milliseconds, `throughput` in rows/s, `queue` in rows."""

    name: str
    ready: int = 0
    message: str = ""
    mode: str = ""
    batch_size: int | None = None
    batch_min: int | None = None
    batch_max: int | None = None
    trend: str = ""
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    target: float | None = None
    target_throughput: float | None = None
    throughput: float | None = None
    queue: int | None = None
    searching: bool | None = None
    held_because: str = ""
    held_by: str = ""
    bound_by: str = ""
    limit: int | None = None
    """Most rows of a batch."""
    knee: int | None = None
    fixed_ms: float | None = None
    per_row_ms: float | None = None
    possible: float | None = None
    changed_at: float | None = None
    changed_because: str = ""
    changed_by: str = ""


class DeploymentView(View, kw_only=True, frozen=True):
    """One ModelDeployment. `live_*`: what the operator measures now, fresher than what is written."""

    id: str
    """namespace/name"""
    namespace: str
    name: str
    level: Level
    reason: str = ""
    message: str = ""
    wanted: int = 0
    ready: int = 0
    url: str = ""
    models: list[ServedModelView] = []
    pods: list[PodView] = []
    live_queue: float | None = None
    live_p95: float | None = None
    live_throughput: float | None = None
    live_utilization: float | None = None


class TaskView(View, kw_only=True, frozen=True):
    """One task of a job over all shards."""

    name: str
    kind: str = ""
    succeeded: int = 0
    failed: int = 0
    mean_batch: float | None = None
    p95: float | None = None


class FailureView(View, kw_only=True, frozen=True):
    """One failed item."""

    item: str
    task: str = ""
    message: str = ""
    shard: int | None = None


class JobView(View, kw_only=True, frozen=True):
    """One InferenceJob; shards as inclusive ranges of indexes."""

    id: str
    """namespace/name"""
    namespace: str
    name: str
    level: Level
    reason: str = ""
    message: str = ""
    total: int | None = None
    succeeded: int = 0
    failed: int = 0
    shards: int | None = None
    shards_done: list[tuple[int, int]] = []
    shards_failed: list[tuple[int, int]] = []
    rate: float | None = None
    eta_s: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    output: str = ""
    tasks: list[TaskView] = []
    failures: list[FailureView] = []


class ChangeView(View, kw_only=True, frozen=True):
    """A change of a model's batch size, or another thing that happened, with its reason."""

    at: float
    about: str
    """namespace/name of the ModelDeployment or InferenceJob."""
    reason: str
    text: str
    warns: bool = False
    count: int = 1


class WaitingView(View, kw_only=True, frozen=True):
    """A pod that has no place yet."""

    namespace: str
    name: str
    reason: str
    text: str
    since: float | None = None


class Overview(View, kw_only=True, frozen=True):
    """All of it. `title`: which cluster or file; `notes`: what could not be seen, and why."""

    source: Literal["cluster", "process"]
    title: str
    time: float
    level: Level
    headline: str
    notes: list[str] = []
    findings: list[Finding] = []
    findings_left_out: int = 0
    processors: list[ProcessorView] = []
    deployments: list[DeploymentView] = []
    jobs: list[JobView] = []
    waiting: list[WaitingView] = []
    waiting_left_out: int = 0
    changes: list[ChangeView] = []
    """Newest first."""


def worst(levels: Iterable[Level], default: Level = "idle") -> Level:
    """The one that most needs somebody to look."""
    return min(levels, key=WORST_FIRST.index, default=default)


def ranges(text: str) -> list[tuple[int, int]]:
    """Indexes in the text format of an Indexed Job: `0-2,5` -> [(0, 2), (5, 5)]. Unreadable parts are left out."""
    found = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdigit() and (not last or last.isdigit()):
            found.append((int(first), int(last or first)))
    return found
