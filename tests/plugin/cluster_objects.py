"""Builders of what a cluster holds, in the states that an overview tells apart."""

from __future__ import annotations

import datetime
import json
import time
from typing import Any

from batchwright_operator.kube.times import rfc3339

NOW = float(int(time.time()))


def moment(seconds_ago: float, now: float = NOW) -> str:
    return rfc3339(now - seconds_ago)


def condition(kind: str, status: str, reason: str, message: str = "", *, now: float = NOW) -> dict[str, Any]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": 1,
        "lastTransitionTime": moment(60, now),
    }


def node(name: str, *, gpus: int = 0, ready: str = "True", cordoned: bool = False, now: float = NOW) -> dict[str, Any]:
    offered = {"cpu": "8", "memory": "32Gi", "pods": "110"} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    state = condition("Ready", ready, "KubeletReady", now=now)
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"unschedulable": True} if cordoned else {},
        "status": {
            "allocatable": offered,
            "capacity": offered,
            "conditions": [
                {k: v for k, v in state.items() if k != "observedGeneration"} | {"lastHeartbeatTime": moment(5, now)}
            ],
        },
    }


def processor(kind: str, speed: float, *, product: str = "", **more: Any) -> dict[str, Any]:
    """A benchmarked one whose best batch size is 16."""
    shares = {1: 0.35, 2: 0.55, 4: 0.75, 8: 0.93, 16: 1.0, 32: 0.98}
    return {
        "kind": kind,
        "product": product,
        "capacityImagesPerSecond": f"{speed:.2f}",
        "loadTable": [
            {"batchSize": size, "imagesPerSecond": f"{speed * share:.2f}", "maxServices": 1 + (size < 4)}
            for size, share in shares.items()
        ],
        "reason": "Benchmarked",
        "benchmarkedTime": moment(3600),
        **more,
    }


def profile(name: str, *processors: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "batchwright.dev/v1alpha1",
        "kind": "AcceleratorProfile",
        "metadata": {"name": name},
        "status": {"processors": list(processors)},
    }


def model_spec(name: str, *, latency: int | None = 100) -> dict[str, Any]:
    targets = {"targets": {"latencyMilliseconds": latency}} if latency else {}
    artifacts = [{"accelerator": "cpu", "format": "onnx", "uri": f"pvc://models/{name}.onnx"}]
    return {"name": name, "artifacts": artifacts, **targets}


def model_status(name: str, *, batch: int = 8, p95: int = 60, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "readyReplicas": 2,
        "batchSize": batch,
        "batchSizeMin": batch,
        "batchSizeMax": batch,
        "mode": "Rows",
        "trend": "Flat",
        "latencyMilliseconds": {"p50": p95 // 2, "p95": p95, "p99": p95 + p95 // 4},
        "throughput": 240,
        "queueLength": 3,
        "lastChangeTime": moment(300),
        "lastChangeReason": "LatencyBelowTarget",
        "lastChangeRule": "FittedStep",
        "tuning": {
            "controller": "Fitted",
            "heldBecause": "TargetMet",
            "heldBy": "StopRule",
            "searching": False,
            "rowsLimit": batch,
            "boundBy": "Size",
            "fit": {"fixedMilliseconds": "8.10", "perRowMilliseconds": "3.20", "knee": 16},
            "possibleThroughput": 460,
        },
        **more,
    }


def deployment(
    name: str,
    *,
    namespace: str = "default",
    replicas: int = 2,
    ready: int = 2,
    conditions: dict[str, tuple[str, str, str]] | None = None,
    models: list[dict[str, Any]] | None = None,
    latency: int = 100,
    now: float = NOW,
) -> dict[str, Any]:
    """`conditions`: type -> status, reason, message; those of a deployment that serves are there already."""
    served = f"{ready} of {replicas} replicas ready"
    told = {
        "Ready": ("True", "Available", served),
        "Reconciling": ("False", "Available", served),
        "Stalled": ("False", "Available", served),
        "ModelsReady": ("True", "AllModelsReady", "every model can be called"),
        "LatencyTargetMet": ("True", "TargetMet", "95 of 100 requests were in time"),
        **(conditions or {}),
    }
    found = models if models is not None else [model_status("detector"), model_status("recognizer", batch=16)]
    return {
        "apiVersion": "batchwright.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": replicas,
            "models": [model_spec(each["name"], latency=latency) for each in found],
        },
        "status": {
            "observedGeneration": 1,
            "replicas": replicas,
            "readyReplicas": ready,
            "address": {"url": f"http://{name}.{namespace}.svc:8000"},
            "conditions": [condition(kind, *said, now=now) for kind, said in told.items()],
            "models": found,
            "summary": {"reason": told["Ready"][1]},
        },
    }


def receipt(node: str, kind: str = "cpu", load: float = 0.41) -> dict[str, Any]:
    terms = {"utilization": f"{load * 0.6:.2f}", "memory": f"{load * 0.1:.2f}", "capacity": f"{load * 0.3:.2f}"}
    return {
        "node": node,
        "processor": kind,
        "load": f"{load:.2f}",
        "terms": terms,
        "policy": "Forecast",
        "runnersUp": [{"node": "slow", "processor": kind, "load": f"{load + 0.22:.2f}"}],
        "predictedThroughput": 130.0,
        "decidedTime": moment(900),
        "reason": f"{node}: load after the placement {load:.2f}; slow lost by 0.22: capacity",
    }


def pod(
    name: str,
    *,
    of: str,
    namespace: str = "default",
    node: str = "",
    kind: str = "cpu",
    load: float = 0.41,
    waiting: str = "",
    age_s: float = 1000,
    now: float = NOW,
) -> dict[str, Any]:
    slug = kind.replace("/", "-").replace(".", "-")
    notes = {"batchwright.dev/accelerator-kind": kind}
    if node:
        notes["batchwright.dev/placement"] = json.dumps(receipt(node, kind, load))
    if waiting:
        notes["batchwright.dev/placement-waiting"] = waiting
    labels = {
        "batchwright.dev/deployment": of,
        "app.kubernetes.io/component": "model",
        "batchwright.dev/accelerator": slug,
    }
    body: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": labels,
            "annotations": notes,
            "creationTimestamp": moment(age_s, now),
        },
        "spec": {"containers": [{"name": "runtime", "image": "none"}]},
        "status": {"phase": "Pending"},
    }
    if node:
        body["spec"]["nodeName"] = node
        body["status"] = {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": moment(60, now)}],
        }
    return body


def job(
    name: str,
    *,
    namespace: str = "default",
    state: str = "Running",
    done: int = 340,
    total: int = 1000,
    failed: int = 0,
    conditions: dict[str, tuple[str, str, str]] | None = None,
    now: float = NOW,
) -> dict[str, Any]:
    ended = {"Completed": "Complete", "Failed": "Failed", "Suspended": "Suspended"}
    told = {
        kind: ("True" if ended.get(state) == kind else "False", state, f"it is {state.lower()}")
        for kind in ("Complete", "Failed", "Suspended")
    }
    told["Stalled"] = ("True" if state == "Failed" else "False", state, "")
    shards = 20
    complete = shards * done // total
    status: dict[str, Any] = {
        "observedGeneration": 1,
        "conditions": [condition(kind, *said, now=now) for kind, said in (told | (conditions or {})).items()],
        "startTime": moment(600, now),
        "shards": {
            "total": shards,
            "completedIndexes": f"0-{complete - 1}" if complete else "",
            "failedIndexes": str(shards - 1) if state == "Failed" else "",
        },
        "items": {"total": total, "succeeded": done - failed, "failed": failed},
        "throughput": "1.70",
        "tasks": [
            {"name": "page", "kind": "CPU", "succeeded": done, "failed": 0, "p95Milliseconds": 40},
            {"name": "detect", "kind": "Model", "succeeded": done - failed, "failed": failed,
             "meanBatchSize": "3.4", "p95Milliseconds": 210},
        ],
        "summary": {"reason": state},
    }  # fmt: skip
    if state == "Running":
        status["estimatedRemainingSeconds"] = round((total - done) / 1.7)
    if state == "Completed":
        status["completionTime"] = moment(30, now)
    if failed:
        message = "cannot identify image file: it is no picture"
        status["failures"] = [{"shard": 3, "item": "page-0031.png", "task": "page", "message": message}]
    return {
        "apiVersion": "batchwright.dev/v1alpha1",
        "kind": "InferenceJob",
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": moment(700, now)},
        "spec": {
            "input": {"uri": "pvc://data/pages", "format": "images", "shardSize": 50},
            "output": {"uri": "pvc://data/results", "format": "jsonl"},
            "tasks": [{"name": "page", "cpu": {"function": "steps:page"}},
                      {"name": "detect", "dependsOn": ["page"],
                       "model": {"deployment": "ocr", "model": "detector"}}],
        },
        "status": status,
    }  # fmt: skip


def event(about: str, reason: str, message: str, *, ago: float = 30, warns: bool = False, now: float = NOW) -> Any:
    when = datetime.datetime.fromtimestamp(now - ago, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{about}.{reason.lower()}.{round(ago * 1000)}", "namespace": "default"},
        "involvedObject": {
            "apiVersion": "batchwright.dev/v1alpha1", "kind": "ModelDeployment", "name": about, "namespace": "default"
        },
        "reason": reason,
        "message": message,
        "action": "Tune",
        "type": "Warning" if warns else "Normal",
        "eventTime": when,
        "reportingComponent": "batchwright.dev/operator",
        "reportingInstance": "test",
    }  # fmt: skip


def gauges(loads: dict[tuple[str, str], tuple[float, float]], *, now: float = NOW) -> dict[str, Any]:
    """(node, kind) -> utilization, memory; as the operator's metrics."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for (name, kind), (busy, memory) in loads.items():
        labels = {"node": name, "kind": kind}
        found.setdefault("batchwright_processor_utilization_ratio", []).append((labels, busy))
        found.setdefault("batchwright_processor_memory_utilization_ratio", []).append((labels, memory))
        found.setdefault("batchwright_processor_sample_timestamp_seconds", []).append((labels, now - 2))
    return found
