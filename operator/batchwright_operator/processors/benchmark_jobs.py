"""Benchmark Jobs: what is to be measured, the Job that measures it, and what became of it. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from batchwright_operator.kube.conditions import find, holds
from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.quantities import amount
from batchwright_operator.kube.times import rfc3339
from batchwright_operator.pods.lifecycle import container_state
from batchwright_operator.pods.problems import IMAGE_PULL_FAILED, Problem, container_problem, scheduling_problem
from batchwright_operator.processors import processor as processors
from batchwright_operator.processors.processor import emulated_device
from batchwright_operator.rendering.mounts import mount
from batchwright_operator.rendering.objects import LABEL_MANAGED_BY, LABEL_NAME, MANAGED_BY
from batchwright_operator.rendering.pod_parts import PROGRAM, container, pod_options
from batchwright_operator.settings import Settings
from batchwright_worker.api.deployment import PodOptions
from batchwright_worker.api.messages import BenchmarkResult
from batchwright_worker.api.names import (
    ANNOTATION_KIND,
    ANNOTATION_NODE,
    ANNOTATION_REBENCHMARK,
    ENV_CPU_MILLIS,
    ENV_EMULATED_DEVICE,
    ENV_KIND,
    ENV_MEMORY_BUDGET,
    ENV_NODE,
    EXIT_PERMANENT,
    GROUP,
    KIND_CPU,
    KIND_EMULATED,
    LABEL_BENCHMARK,
    LABEL_KIND,
    TERMINATION_LOG,
    child_name,
    kind_slug,
)

ANNOTATION_DIGEST: Final = f"{GROUP}/benchmarked-as"
"""On a benchmark Job: the digest of what it measures."""
CONTAINER: Final = "benchmark"
START_S: Final = 480
"""Beyond the budget: time to pull the image and to start."""
KEEP_S: Final = 3600
IMAGE_FIELDS: Final = "the image in the operator's runtimeTable"
_PRODUCT_LABELS: Final = (
    "nvidia.com/gpu.product",
    "nvidia.com/cuda.driver-version.full",
    "nvidia.com/mig.config",
    "amd.com/gpu.product-name",
    "node.kubernetes.io/instance-type",
)


def image_of(kind: str, settings: Settings) -> str:
    """The image that serves this kind, and so measures it: the first one that the runtime table has for it."""
    named = (row.image for row in settings.runtime_table if row.accelerator == kind and row.image)
    return next(named, settings.runtime_for(kind, "*").image)


def digest(node: Raw, kind: str, profile: Raw | None, settings: Settings) -> str:
    """What a load table is valid for: hardware, driver, runtime image, and the user's last request."""
    info, labels = (node.get("status") or {}).get("nodeInfo") or {}, node["metadata"].get("labels") or {}
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    facts = [
        info.get("architecture", ""),
        info.get("machineID", "") if kind == KIND_CPU else "",
        amount(allocatable.get(kind, 0)) if kind == KIND_CPU else "",
        [labels.get(name, "") for name in _PRODUCT_LABELS],
        msgspec.to_builtins(emulated_device(node)) if kind == KIND_EMULATED else None,
        image_of(kind, settings),
        ((profile or {"metadata": {}})["metadata"].get("annotations") or {}).get(ANNOTATION_REBENCHMARK, ""),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def job_name(node: str, kind: str) -> str:
    """One per processor."""
    return child_name("bench", node, kind_slug(kind))


def job(node: Raw, kind: str, measures: str, settings: Settings) -> Raw:
    """The Job that measures one processor: pinned, restricted, small in its requests so that it evicts nobody."""
    metadata = node["metadata"]
    labels = {
        LABEL_NAME: "batchwright-benchmark",
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_BENCHMARK: "true",
        LABEL_KIND: kind_slug(kind),
    }
    annotations = {ANNOTATION_NODE: metadata["name"], ANNOTATION_KIND: kind, ANNOTATION_DIGEST: measures}
    owner = {"apiVersion": "v1", "kind": "Node", "name": metadata["name"], "uid": metadata["uid"]}
    budget_s = settings.benchmark_budget_for(kind)
    permanent = {"containerName": CONTAINER, "operator": "In", "values": [EXIT_PERMANENT]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(metadata["name"], kind),
            "namespace": settings.operator_namespace,
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [owner],
        },
        "spec": {
            "backoffLimit": 1,
            "activeDeadlineSeconds": budget_s + START_S,
            "ttlSecondsAfterFinished": KEEP_S,
            "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": permanent}]},
            "template": {
                "metadata": {"labels": dict(labels), "annotations": dict(annotations)},
                "spec": _pod(node, kind, budget_s, settings),
            },
        },
    }


def _pod(node: Raw, kind: str, budget_s: int, settings: Settings) -> Raw:
    name = node["metadata"]["name"]
    pinned = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [pinned]}}
    return {
        **pod_options(PodOptions()),
        "restartPolicy": "Never",
        "affinity": {"nodeAffinity": required},
        "tolerations": [{"operator": "Exists", "effect": "NoSchedule"}],
        "terminationGracePeriodSeconds": 5,
        "containers": [
            container(
                CONTAINER,
                image_of(kind, settings),
                settings,
                command=[PROGRAM, "benchmark"],
                args=[f"--kind={kind}", f"--budget-seconds={budget_s}", f"--termination-log={TERMINATION_LOG}"],
                env=_env(node, kind),
                resources=_resources(kind, settings),
                volumeMounts=[mount("tmp", "/tmp", read_only=False)],  # noqa: S108 - the pod's own emptyDir
            )
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }


def _env(node: Raw, kind: str) -> list[Raw]:
    """The whole processor's size, not the small request's."""
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    env = {ENV_KIND: kind, ENV_NODE: node["metadata"]["name"]}
    if kind == KIND_CPU:
        env[ENV_CPU_MILLIS] = str(round(amount(allocatable.get("cpu", 1)) * 1000))
        env[ENV_MEMORY_BUDGET] = str(round(amount(allocatable.get("memory", 0))))
    if (device := emulated_device(node)) is not None and kind == KIND_EMULATED:
        env[ENV_EMULATED_DEVICE] = msgspec.json.encode(device).decode()
    return [{"name": name, "value": value} for name, value in env.items()]


def _resources(kind: str, settings: Settings) -> Raw:
    resources = settings.benchmark_resources.as_dict()
    if kind == KIND_CPU:
        return dict(resources)
    return {**resources, "limits": {**resources.get("limits", {}), kind: "1"}}


# --- what became of it -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """Not over yet; `problem` is what keeps it from starting, if anything."""

    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkFailure:
    """Over without a result; `reason` is CamelCase."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Over, and its result is nowhere to be found: to be done again."""


Outcome = Running | BenchmarkFailure | Lost | BenchmarkResult


def outcome(job: Raw, pods: Sequence[Raw]) -> Outcome:
    """What a benchmark Job and its pods say."""
    conditions = (job.get("status") or {}).get("conditions")
    results = [found for pod in _newest_first(pods) if (found := _result(pod)) is not None]
    worked = next((result for result in results if not result.error and result.load_table), None)
    if worked is not None:
        return worked
    if holds(conditions, "Complete"):
        return Lost()
    if not holds(conditions, "Failed"):
        return Running(problem=_message(_problem(pods)))
    failed = find(conditions, "Failed")
    return _failure(str(failed.get("reason", "")), str(failed.get("message", "")), pods, results)


def ended_at(job: Raw, pods: Iterable[Raw], now: float) -> str:
    """RFC 3339: when the measurement was over."""
    finished = [state["finishedAt"] for pod in pods if (state := _terminated(pod)) and state.get("finishedAt")]
    return str(max(finished, default=None) or (job.get("status") or {}).get("completionTime") or rfc3339(now))


def _failure(reason: str, message: str, pods: Sequence[Raw], results: Sequence[BenchmarkResult]) -> BenchmarkFailure:
    said = next((result.error for result in results if result.error), "")
    if said:
        return BenchmarkFailure(reason=processors.FAILED, message=said)
    states = [state for pod in _newest_first(pods) if (state := _terminated(pod))]
    if any(state.get("reason") == "OOMKilled" for state in states):
        return BenchmarkFailure(
            reason=processors.OUT_OF_MEMORY,
            message="the benchmark was killed for memory; free some on the node, or give benchmarkResources a limit",
        )
    problem = _problem(pods)
    if problem is not None and problem.reason == IMAGE_PULL_FAILED:
        return BenchmarkFailure(reason=processors.NO_IMAGE, message=_message(problem))
    if reason == "DeadlineExceeded":
        text = f"the benchmark did not end in time{f': {_message(problem)}' if problem else ''}"
        return BenchmarkFailure(reason=processors.TIMED_OUT, message=text)
    code = f"exit status {states[0].get('exitCode')}: {str(states[0].get('message', ''))[-300:]}" if states else message
    return BenchmarkFailure(reason=processors.FAILED, message=code or "the benchmark failed without a word")


def _result(pod: Raw) -> BenchmarkResult | None:
    message = (_terminated(pod) or {}).get("message")
    try:
        return msgspec.json.decode(message, type=BenchmarkResult) if message else None
    except msgspec.DecodeError:
        return None


def _terminated(pod: Raw) -> Raw | None:
    return container_state(pod, CONTAINER).get("terminated")


def _problem(pods: Iterable[Raw]) -> Problem | None:
    """Why a pod does not run."""
    found = (container_problem(pod, image_fields=IMAGE_FIELDS) or scheduling_problem(pod) for pod in pods)
    return next(filter(None, found), None)


def _message(problem: Problem | None) -> str:
    """With the kubelet's own message: the status outlives the Job and its pods (KEEP_S)."""
    if problem is None:
        return ""
    return f"{problem.message} ({problem.detail})" if problem.detail else problem.message


def _newest_first(pods: Sequence[Raw]) -> list[Raw]:
    return sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), reverse=True)
