"""The states of a cluster in which the page is looked at: objects for a real API server, and the operator's gauges."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from batchwright_operator.plugin.operator_metrics import OperatorMetrics
from batchwright_worker.dashboard.history import History
from batchwright_worker.dashboard.overview import DeploymentView, Overview
from tests.plugin.cluster_objects import deployment, event, gauges, job, model_status, node, pod, processor, profile

GPU = "nvidia.com/gpu"
EPYC, XEON, L4 = "AMD EPYC 9654", "Intel Xeon E5-2680", "NVIDIA L4"
LATE = {"LatencyTargetMet": ("False", "TargetMissed", "recognizer misses 100 ms")}
CLAIM = "PersistentVolumeClaim models does not exist in namespace default; create it, or correct the pvc:// URI"
HOSTILE = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script></script><a href="javascript:1">b</a>'
Loads = dict[tuple[str, str], tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the cluster holds and the operator measures; `busy` shapes the history of its charts."""

    objects: list[dict[str, Any]]
    metrics: OperatorMetrics = field(default_factory=OperatorMetrics)
    busy: float = 0.4


def measured(loads: Loads, served: dict[str, tuple[float, float, float]]) -> OperatorMetrics:
    """`served`: name of a deployment -> rows that wait, p95 in s, rows/s."""
    found = gauges(loads, now=time.time())
    names = ("queue_length", "latency_p95_seconds", "throughput_rows_per_second")
    for name, values in served.items():
        labels = {"namespace": "default", "name": name}
        for what, value in zip(names, values, strict=True):
            found.setdefault(f"batchwright_modeldeployment_{what}", []).append((labels, value))
    return OperatorMetrics(gauges=found)


def empty() -> State:
    now = time.time()
    objects = [
        node("fast", now=now),
        node("slow", now=now),
        profile("fast", processor("cpu", 42.5, product=EPYC)),
        profile("slow", processor("cpu", 21.1, product=XEON)),
    ]
    return State(objects=objects, metrics=measured({("fast", "cpu"): (0.03, 0.1), ("slow", "cpu"): (0.01, 0.2)}, {}))


def _nodes(now: float) -> list[dict[str, Any]]:
    return [
        node("fast", gpus=1, now=now),
        node("medium", now=now),
        node("slow", now=now),
        profile("fast", processor("cpu", 42.5, product=EPYC), processor(GPU, 610.0, product=L4)),
        profile("medium", processor("cpu", 30.2, product=EPYC)),
        profile("slow", processor("cpu", 12.4, product=XEON)),
    ]


def _changes(now: float) -> list[dict[str, Any]]:
    where = "in ocr-cpu-6c8f-x2x9k: batch size"
    return [
        event("ocr", "LatencyBelowTarget", f"recognizer {where} 8 -> 16: p95 41 ms of 100, it rises", ago=70, now=now),
        event("ocr", "LatencyBelowTarget", f"recognizer {where} 4 -> 8: p95 38 ms of 100", ago=140, now=now),
        event("ocr", "LatencyBelowTarget", f"detector {where} 4 -> 8: p95 44 ms of 100", ago=145, now=now),
        event("ocr", "Available", "2 of 2 replicas ready", ago=290, now=now),
    ]


def healthy() -> State:
    now = time.time()
    objects = [
        *_nodes(now),
        deployment("ocr", now=now),
        deployment("embed", models=[model_status("minilm", batch=32, p95=18)], now=now),
        pod("ocr-cpu-6c8f-x2x9k", of="ocr", node="fast", load=0.41, now=now),
        pod("ocr-cpu-6c8f-7jd4q", of="ocr", node="medium", load=0.52, now=now),
        pod("embed-gpu-5d77-hh2sl", of="embed", node="fast", kind=GPU, load=0.22, now=now),
        pod("embed-gpu-5d77-qq81z", of="embed", node="fast", kind=GPU, load=0.35, now=now),
        job("pages", done=340, now=now),
        job("vectors", state="Completed", done=1000, now=now),
        *_changes(now),
    ]
    loads = {
        ("fast", "cpu"): (0.62, 0.4),
        ("fast", GPU): (0.48, 0.6),
        ("medium", "cpu"): (0.55, 0.3),
        ("slow", "cpu"): (0.04, 0.1),
    }
    served = {"ocr": (3.0, 0.061, 241.0), "embed": (0.0, 0.018, 1830.0)}
    return State(objects=objects, metrics=measured(loads, served), busy=0.42)


def overloaded() -> State:
    now = time.time()
    slow = model_status("recognizer", batch=16, p95=870, throughput=260, queueLength=412)
    slow["tuning"] |= {"heldBecause": "Overloaded", "boundBy": "InTime", "rowsLimit": 16, "possibleThroughput": 262}
    waits = "NoFittingProcessor: 3 of 3 nodes have too little cpu left: each wants 2, the most that is left is 0.4"
    models, hosts = [model_status("detector", p95=95), slow], ("fast", "medium", "slow")
    risk = (
        "the rest takes about 518 s at 1.70 items/s, 300 s are left; set spec.parallelism to 4 or more (with replicas "
        "of ocr to match)"
    )
    objects = [
        *_nodes(now),
        deployment("ocr", replicas=12, ready=4, conditions=LATE, models=models, now=now),
        *(pod(f"ocr-cpu-6c8f-{n:05x}", of="ocr", node=hosts[n % 3], load=0.7, now=now) for n in range(4)),
        *(pod(f"ocr-cpu-6c8f-{n:05x}", of="ocr", waiting=waits, age_s=60 * n, now=now) for n in range(4, 12)),
        job("pages", done=120, conditions={"DeadlineAtRisk": ("True", "TooSlow", risk)}, now=now),
        event("ocr", "TargetMissed", "recognizer misses 100 ms", ago=60, warns=True, now=now),
        *_changes(now),
    ]
    loads = {
        ("fast", "cpu"): (0.99, 0.8),
        ("fast", GPU): (0.97, 0.9),
        ("medium", "cpu"): (0.98, 0.7),
        ("slow", "cpu"): (1.0, 0.6),
    }
    return State(objects=objects, metrics=measured(loads, {"ocr": (412.0, 0.87, 260.0)}), busy=0.97)


def failing() -> State:
    now = time.time()
    message = "the benchmark ended with exit code 137: out of memory; raise benchmarkPods.memory"
    failed = {"reason": "BenchmarkFailed", "message": message, "failures": 3, "loadTable": []}
    measured_once = processor("cpu", 1.0) | failed
    del measured_once["capacityImagesPerSecond"]
    stalled = {
        "Ready": ("False", "ClaimNotFound", f"0 of 2 replicas ready; {CLAIM}"),
        "Stalled": ("True", "ClaimNotFound", CLAIM),
    }
    broken = {"ModelsReady": ("False", "ModelLoadFailed", f"recognizer: the file is no ONNX model: {HOSTILE}")}
    missing = ("True", "DeploymentMissing", "there is no ModelDeployment translate in namespace default; create it")
    objects = [
        node("fast", ready="False", now=now),
        node("medium", cordoned=True, now=now),
        node("slow", now=now),
        profile("fast", processor("cpu", 42.5)),
        profile("medium", processor("cpu", 30.2, product=HOSTILE)),
        profile("slow", measured_once),
        deployment("ocr", ready=0, conditions=stalled, models=[{"name": "detector"}, {"name": "recognizer"}], now=now),
        deployment("embed", conditions=broken, now=now),
        job("pages", state="Failed", done=210, failed=7, now=now),
        job("nightly", done=0, conditions={"WaitingForModels": missing}, now=now),
        event("ocr", "ClaimNotFound", f"0 of 2 replicas ready; {CLAIM}", ago=45, warns=True, now=now),
        event("embed", "Said", HOSTILE, ago=50, now=now),
    ]
    gone = OperatorMetrics(problem="no operator leads at present", no_leader=True)
    return State(objects=objects, metrics=gone, busy=0.1)


def thousand(nodes: int = 1000) -> State:
    now, chance = time.time(), random.Random(3)
    names = [f"ip-10-{n // 250}-{n % 250}-7.eu-central-1.compute.internal" for n in range(nodes)]
    cordoned, broken = {40, 41, 42, 43}, {77}
    objects = []
    for n, name in enumerate(names):
        ready = "False" if n in broken else "True"
        objects.append(node(name, gpus=n % 2, ready=ready, cordoned=n in cordoned, now=now))
        gpu = [processor(GPU, 600 + n % 30, product=L4)] if n % 2 else []
        objects.append(profile(name, processor("cpu", 38 + n % 5, product=EPYC), *gpu))
    for d in range(40):
        name = f"service-{d:02}"
        objects.append(deployment(name, replicas=20, ready=20, conditions=LATE if d in (7, 23) else {}, now=now))
        for n in range(20):
            place = names[(d * 20 + n) % nodes]
            objects.append(pod(f"{name}-cpu-{n:03}", of=name, node=place, load=0.2 + 0.02 * n, now=now))
    for n in range(24):
        done, state = (1000, "Completed") if n % 3 else (40 * n, "Running")
        objects.append(job(f"batch-{n:02}", done=done, state=state, now=now))
    loads: Loads = {}
    for n, name in enumerate(names):
        if n in broken:
            continue
        loads[name, "cpu"] = (_share(chance.gauss(0.35 + 0.4 * (n > 700), 0.18)), chance.random())
        if n % 2:
            loads[name, GPU] = (_share(chance.gauss(0.6, 0.22)), chance.random())
    served = {f"service-{d:02}": (d % 5.0, 0.06, 240.0 + d) for d in range(40)}
    return State(objects=objects, metrics=measured(loads, served), busy=0.5)


def _share(value: float) -> float:
    return max(0.0, min(1.0, value))


STATES: dict[str, Callable[[], State]] = {
    "empty": empty,
    "healthy": healthy,
    "overloaded": overloaded,
    "failing": failing,
    "thousand": thousand,
}


def with_a_past(history: History, seen: Overview, busy: float, samples: int = 60) -> None:
    """Five minutes before `seen`, in which batch sizes doubled up to what they are, and load came."""
    for n in range(samples):
        share = (n + 1) / samples
        wave = 1 + 0.12 * math.sin(n / 3) + 0.05 * math.sin(n * 1.7)
        level = _share(busy * min(1.0, 0.3 + share) * wave)
        history.add(
            msgspec.structs.replace(
                seen,
                time=seen.time - 5.0 * (samples - n),
                processors=[
                    msgspec.structs.replace(each, utilization=level) if each.utilization is not None else each
                    for each in seen.processors
                ],
                deployments=[_before(each, share, wave, doublings=max(0, 3 - n // 14)) for each in seen.deployments],
                jobs=[
                    msgspec.structs.replace(
                        each, succeeded=int(each.succeeded * share), rate=each.rate and each.rate * wave
                    )
                    for each in seen.jobs
                ],
            )
        )


def _before(each: DeploymentView, share: float, wave: float, *, doublings: int) -> DeploymentView:
    def scaled(value: float | None, factor: float) -> float | None:
        return None if value is None else value * factor

    models = [
        msgspec.structs.replace(
            model,
            batch_size=None if model.batch_size is None else max(1, model.batch_size >> doublings),
            p95=scaled(model.p95, wave * (0.5 + 0.5 * share)),
            queue=None if model.queue is None else int(model.queue * share * wave),
        )
        for model in each.models
    ]
    return msgspec.structs.replace(
        each,
        models=models,
        live_queue=scaled(each.live_queue, share * wave),
        live_p95=scaled(each.live_p95, wave * (0.5 + 0.5 * share)),
        live_throughput=scaled(each.live_throughput, wave * min(1.0, 0.4 + share)),
    )
