"""Benchmark Job of a processor (method A1), and the digest of what it measures. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Final

import msgspec

from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.quantities import amount
from batchwright_operator.processors.processor import emulated_device
from batchwright_operator.rendering.mounts import mount
from batchwright_operator.rendering.objects import LABEL_MANAGED_BY, LABEL_NAME, MANAGED_BY
from batchwright_operator.rendering.pod_parts import PROGRAM, container, merged_env, pod_options, variables
from batchwright_operator.settings import Settings
from batchwright_worker.api.accelerators import VENDORS
from batchwright_worker.api.deployment import PodOptions
from batchwright_worker.api.fields import LocalObjectReference
from batchwright_worker.api.names import (
    ANNOTATION_KIND,
    ANNOTATION_NODE,
    ANNOTATION_REBENCHMARK,
    ENV_CPU_MILLIS,
    ENV_DEVICES,
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

ANNOTATION_CLASS: Final = f"{GROUP}/node-class"
"""On a benchmark Job that is the first of its class: the class."""
BENCHMARK_VERSION: Final = 1
"""Of what is measured and how. A larger one asks for new measurements everywhere."""
ANNOTATION_DIGEST: Final = f"{GROUP}/benchmarked-as"
"""On a benchmark Job: the digest of what it measures."""
CONTAINER: Final = "benchmark"
START_S: Final = 480
"""Beyond the budget, which is for measuring alone: time to pull the image and to start."""
ALL_DEVICES: Final = 16
"""Most devices of a node that are measured at once: their ids have to fit the termination message."""
KEEP_S: Final = 3600
"""How long a finished Job is kept, for its log."""
_PRODUCT_LABELS: Final = (
    *(label for vendor in VENDORS for label in vendor.product_labels),
    "node.kubernetes.io/instance-type",
)
"""Their order is part of every digest: where it changes, every processor is measured again."""


def image_of(kind: str, settings: Settings) -> str:
    """The image that serves this kind, and so measures it: the first one that the runtime table has for it."""
    named = (row.image for row in settings.runtime_table if row.accelerator == kind and row.image)
    return next(named, settings.runtime_for(kind, "*").image)


def digest(node: Raw, kind: str, profile: Raw | None, settings: Settings) -> str:
    """What a load table is valid for: hardware, driver, runtime image, and the user's last request.

    A processor is measured again when it changes, so it holds nothing that changes of itself.
    """
    info, labels = (node.get("status") or {}).get("nodeInfo") or {}, node["metadata"].get("labels") or {}
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    facts = [
        info.get("architecture", ""),
        # The CPU is the machine itself, and what it may use of it; an accelerator is known by its product labels.
        info.get("machineID", "") if kind == KIND_CPU else "",
        amount(allocatable.get(kind, 0)) if kind == KIND_CPU else "",
        [labels.get(name, "") for name in _PRODUCT_LABELS],
        msgspec.to_builtins(emulated_device(node)) if kind == KIND_EMULATED else None,
        image_of(kind, settings),
        ((profile or {"metadata": {}})["metadata"].get("annotations") or {}).get(ANNOTATION_REBENCHMARK, ""),
    ]
    facts += [BENCHMARK_VERSION] if BENCHMARK_VERSION > 1 else []
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def job_name(node: str, kind: str) -> str:
    """Name of the one Job that a processor has at a time."""
    return child_name("bench", node, kind_slug(kind))


def check_digest(measured_as: str) -> str:
    """What a spot check says that it measures: never what a benchmark of the same processor says."""
    return f"{measured_as}-check"


def spot_check(node: Raw, kind: str, measured_as: str, batch_size: int, settings: Settings) -> Raw:
    """The Job of the drift sentinel: as a benchmark, but of one batch size and with its own budget."""
    found = job(node, kind, check_digest(measured_as), settings)
    budget_s = settings.spot_check_budget_seconds
    (only,) = found["spec"]["template"]["spec"]["containers"]
    only["args"] = [*only["args"], f"--budget-seconds={budget_s}", f"--spot-check={batch_size}"]
    found["spec"] |= {"backoffLimit": 0, "activeDeadlineSeconds": budget_s + START_S}
    return found


def job(node: Raw, kind: str, measured_as: str, settings: Settings, *, devices: int = 1, first_of: str = "") -> Raw:
    """The Job that measures one processor, with so many of its devices: pinned, restricted, small in its other requests
    so that it evicts nobody. `first_of`: the class of which it is the first measurement."""
    metadata = node["metadata"]
    labels = {
        LABEL_NAME: "batchwright-benchmark",
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_BENCHMARK: "true",
        LABEL_KIND: kind_slug(kind),
    }
    annotations = {ANNOTATION_NODE: metadata["name"], ANNOTATION_KIND: kind, ANNOTATION_DIGEST: measured_as}
    if first_of:
        annotations[ANNOTATION_CLASS] = first_of
    # The controller: so another Job of this name is never taken for ours.
    owner = {"apiVersion": "v1", "kind": "Node", "name": metadata["name"], "uid": metadata["uid"], "controller": True}
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
                "spec": _pod(node, kind, devices, settings),
            },
        },
    }


def _pod(node: Raw, kind: str, devices: int, settings: Settings) -> Raw:
    budget_s = settings.benchmark_budget_for(kind)
    name = node["metadata"]["name"]
    pinned = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [pinned]}}
    given = settings.benchmark_pod_for(kind)
    options = PodOptions(
        image_pull_secrets=tuple(LocalObjectReference(name=each) for each in given.image_pull_secrets),
        runtime_class_name=given.runtime_class_name or None,
        priority_class_name=given.priority_class_name or None,
    )
    return {
        **pod_options(options),
        "restartPolicy": "Never",
        "affinity": {"nodeAffinity": required},
        **({"tolerations": [dict(each) for each in given.tolerations]} if given.tolerations else {}),
        **({"nodeSelector": dict(given.node_selector)} if given.node_selector else {}),
        "terminationGracePeriodSeconds": 5,
        "containers": [
            container(
                CONTAINER,
                image_of(kind, settings),
                settings,
                command=[PROGRAM, "benchmark"],
                args=[f"--kind={kind}", f"--budget-seconds={budget_s}", f"--termination-log={TERMINATION_LOG}"],
                env=merged_env(variables(settings.otlp_env), _env(node, kind, devices)),
                resources=_resources(kind, devices, settings),
                volumeMounts=[mount("tmp", "/tmp", read_only=False)],  # noqa: S108 - the pod's own emptyDir
            )
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }


def _env(node: Raw, kind: str, devices: int) -> list[Raw]:
    """Size of the whole processor: pods run on all of it, while the Job requests little."""
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    env = {ENV_KIND: kind, ENV_NODE: node["metadata"]["name"]}
    if kind == KIND_CPU:
        env[ENV_CPU_MILLIS] = str(round(amount(allocatable.get("cpu", 1)) * 1000))
        env[ENV_MEMORY_BUDGET] = str(round(amount(allocatable.get("memory", 0))))
    if (device := emulated_device(node)) is not None and kind == KIND_EMULATED:
        env[ENV_EMULATED_DEVICE] = msgspec.json.encode(device).decode()
    if devices > 1:
        env[ENV_DEVICES] = str(devices)
    return variables(env)


def _resources(kind: str, devices: int, settings: Settings) -> Raw:
    resources = settings.benchmark_resources.as_dict()
    if kind == KIND_CPU:
        return dict(resources)
    return {**resources, "limits": {**resources.get("limits", {}), kind: str(devices)}}
