"""When a benchmark may start on a node: what keeps it away for good, and what for the moment. Pure.

Texts have no numbers: they go into the status, which would be written again whenever one of them changes.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

from batchwright_operator.kube.objects import Raw
from batchwright_operator.processors.nodes import NodeInfo
from batchwright_operator.reconcile.live_state import Sample
from batchwright_operator.settings import BenchmarkPod, Settings
from batchwright_worker.api.names import KIND_CPU

REQUESTED_BUSY: Final = 0.5
"""Without samples a node counts as busy when its pods request this share of its cores."""
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeUse:
    """What may keep a benchmark waiting."""

    samples: Mapping[str, Sample] = field(default_factory=dict)
    requested: Mapping[str, float] = field(default_factory=dict)
    """Resource -> what all pods of the node request, benchmarks aside."""
    serves: frozenset[str] = frozenset()
    """Kinds that model pods here use."""
    runs_here: bool = False
    """Is there another benchmark on the node?"""
    elsewhere: int = 0
    """Benchmarks on other nodes."""
    class_is_measured_elsewhere: bool = False
    """Is a first measurement of the same class running?"""


def kept_away(info: NodeInfo, kind: str, settings: Settings) -> str:
    """Why the administrator's settings, or the node itself, let no benchmark run there; empty: one may."""
    if not any(fnmatchcase(kind, pattern) for pattern in settings.benchmark_kinds):
        return "benchmarkKinds does not name it"
    if other := unsupported(info, architectures(settings)):
        return f"the image does not run there: the node is {other}"
    pod = settings.benchmark_pod_for(kind)
    if any(info.labels.get(name) != value for name, value in pod.node_selector.items()):
        return "the nodeSelector of benchmarkPods leaves it out"
    if taint := _untolerated(info.taints, pod):
        return f"taint {taint.get('key')} keeps pods away; benchmarkPods may tolerate it"
    return ""


def architectures(settings: Settings) -> frozenset[str]:
    """That the worker image is built for: what the administrator says, else this operator's own."""
    machine = platform.machine()
    return frozenset(settings.image_architectures) or frozenset({_ARCHITECTURES.get(machine, machine)})


def unsupported(info: NodeInfo, built_for: frozenset[str]) -> str:
    """The operating system or architecture of the node that our images do not run on; empty: they do, or it is not
    known."""
    if info.system not in ("", "linux"):
        return info.system
    return info.architecture if info.architecture and info.architecture not in built_for else ""


def obstacle(info: NodeInfo, kind: str, use: NodeUse, settings: Settings, now: float) -> str:
    """Why a benchmark of this kind must not start now; empty: it may."""
    sample = use.samples.get(kind)
    fresh = sample is not None and now - sample.taken_at <= settings.sample_stale_seconds
    is_busy = sample is not None and fresh and sample.utilization >= settings.benchmark_idle_threshold
    obstacles = {
        "the node is not ready, or cordoned": not info.ready or info.cordoned,
        "another benchmark runs on the node": use.runs_here,
        "a node of the same class is measured first": use.class_is_measured_elsewhere,
        "benchmarks run on other nodes (benchmarkParallelism)": use.elsewhere >= settings.benchmark_parallelism,
        "no device is free": kind != KIND_CPU and _free(info, kind, use) < 1.0,
        "models run on it and its utilization is not known": kind in use.serves and not fresh,
        "pods request much of it and its utilization is not known": not fresh and _is_requested(info, kind, use),
        "it is busy": is_busy,
    }
    return next((message for message, applies in obstacles.items() if applies), "")


def _free(info: NodeInfo, kind: str, use: NodeUse) -> float:
    return info.allocatable.get(kind, 0.0) - use.requested.get(kind, 0.0)


def _is_requested(info: NodeInfo, kind: str, use: NodeUse) -> bool:
    return kind == KIND_CPU and use.requested.get(kind, 0.0) >= REQUESTED_BUSY * info.allocatable.get(kind, 0.0)


def _untolerated(taints: Sequence[Raw], pod: BenchmarkPod) -> Raw | None:
    keeping = (taint for taint in taints if taint.get("effect") in ("NoSchedule", "NoExecute"))
    # A cordon is a taint too, which comes and goes; it is an obstacle of its own.
    lasting = (taint for taint in keeping if not str(taint.get("key")).startswith("node.kubernetes.io/"))
    return next((taint for taint in lasting if not any(tolerates(each, taint) for each in pod.tolerations)), None)


def tolerates(toleration: Raw, taint: Raw) -> bool:
    """As kube-scheduler has it."""
    effect, key = toleration.get("effect"), toleration.get("key")
    if effect and effect != taint.get("effect"):
        return False
    if key and key != taint.get("key"):
        return False
    operator = toleration.get("operator") or "Equal"
    if operator == "Exists":
        return True
    if operator != "Equal":
        return False  # of a newer Kubernetes, which compares numbers: left to its scheduler
    return bool(key) and (toleration.get("value") or "") == (taint.get("value") or "")
