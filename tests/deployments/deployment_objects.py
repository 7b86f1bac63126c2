"""Builders: ModelDeployments of every shape that the tests need, sidecar states, profiles."""

from __future__ import annotations

from typing import Any

from batchwright_operator.kube.objects import Raw
from batchwright_worker.api.messages import (
    LATENCY_BOUNDS_MS,
    BoundsState,
    ChangeState,
    FitState,
    HoldState,
    ModelState,
    SidecarState,
    TuningState,
)

NAMESPACE = "shop"
PVC_ARTIFACT = {"accelerator": "cpu", "format": "onnx", "uri": "pvc://models/rec.onnx"}
EMULATED = "batchwright.dev/emulated"
NVIDIA = "nvidia.com/gpu"


def deployment(name: str = "ocr", /, *, models: list[Raw] | None = None, generation: int = 1, **spec: Any) -> Raw:
    """A ModelDeployment as the API server stores it; one CPU model on a claim unless told otherwise."""
    spec = {"replicas": 1, "models": models or [model()], **spec}
    metadata = {"name": name, "namespace": NAMESPACE, "uid": f"uid-of-{name}", "generation": generation}
    return {
        "apiVersion": "batchwright.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": metadata,
        "spec": spec,
        "status": {"observedGeneration": -1},
    }


def model(name: str = "recognizer", *artifacts: Raw, **parts: Any) -> Raw:
    """A model; a CPU artifact on a claim, and a latency target, unless told otherwise."""
    return {
        "name": name,
        "artifacts": list(artifacts) or [PVC_ARTIFACT],
        "targets": {"latencyMilliseconds": 100},
        **parts,
    }


def emulated(kind: str = EMULATED) -> Raw:
    """An emulated artifact for an accelerator kind."""
    return {"accelerator": kind, "format": "emulated", "emulated": {"fixedMicroseconds": 10_000}}


HATCHES: Raw = {
    "serviceAccountName": "default",
    "imagePullSecrets": [{"name": "registry"}],
    "priorityClassName": "system-cluster-critical",
    "volumes": [{"name": "extra", "configMap": {"name": "settings"}}, {"name": "cache", "emptyDir": {}}],
    "volumeMounts": [
        {"name": "extra", "mountPath": "/etc/extra", "readOnly": True},
        {"name": "cache", "mountPath": "/cache"},
    ],
    "securityContext": {"runAsUser": 1000, "supplementalGroups": [44]},
    "labels": {"team": "vision", "batchwright.dev/deployment": "not-this"},
    "annotations": {"example.org/note": "kept"},
}


def samples() -> dict[str, Raw]:
    """One ModelDeployment per shape of pod: the golden files and the dry runs use these."""
    fetched = {
        "accelerator": "cpu",
        "format": "safetensors",
        "uri": "https://models.example.org/ranker.safetensors",
        "sha256": "0" * 64,
        "maxBytes": 1 << 30,
        "secretRef": {"name": "hub"},
        "script": {"configMapKeyRef": {"name": "ranker-code", "key": "ranker.py"}},
    }
    folder = {
        "accelerator": "cpu",
        "format": "python",
        "uri": "s3://models/ranker/",
        "maxBytes": 1 << 30,
        "script": {"file": "model.py"},
    }
    claimed = {"accelerator": "cpu", "format": "onnx", "uri": "pvc://models/checked/", "sha256": "1" * 64}
    image = f"oci://registry.example.org:5000/team/ranker@sha256:{'2' * 64}"
    in_image = {"format": "onnx", "uri": f"{image}/models/model.onnx", "secretRef": {"name": "registry"}}
    checked_image = {"format": "onnx", "uri": "oci://registry.example.org/team/net:1.2", "sha256": "3" * 64}
    gpu = {"accelerator": NVIDIA, "format": "onnx", "uri": "pvc://models.v2/rec.onnx"}
    runtime = {
        "accelerator": "cpu",
        "image": "example.org/runtime:1",
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
        "env": [
            {"name": "OMP_WAIT_POLICY", "value": "PASSIVE"},
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "key"}}},
        ],
    }
    placement = {"nodeSelector": {"disk": "fast"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]}
    server = {
        "accelerator": "cpu",
        "protocol": "open-inference",
        "image": "example.org/triton:1",
        "port": 9000,
        "args": ["--http-port=9000"],
    }
    return {
        "cpu-claim": deployment("cpu-claim"),
        "emulated": deployment("emulated", models=[model("echo", emulated())], replicas=2),
        "fetched": deployment("fetched", models=[model("ranker", fetched)]),
        "folder": deployment("folder", models=[model("ranker", folder), model("checked", claimed)], readiness="Any"),
        "image-volumes": deployment(
            "image-volumes",
            models=[model("ranker", in_image), model("again", in_image), model("net", checked_image)],
            pod={"imagePullSecrets": [{"name": "registry"}, {"name": "others"}]},
        ),
        "texts": deployment(
            "texts",
            models=[
                model("words", claimed | {"sha256": "2" * 64}, task={"type": "Embedding", "pooling": "Mean"}),
                model("plain", fetched),
            ],
        ),
        "two-devices": deployment(
            "two-devices",
            models=[model("recognizer", gpu)],
            runtimes=[{"accelerator": NVIDIA, "count": 2, "memoryBudgetBytes": 8 << 30}],
        ),
        "claimed-devices": deployment(
            "claimed-devices",
            models=[model("recognizer", gpu)],
            runtimes=[
                {
                    "accelerator": NVIDIA,
                    "count": 2,
                    "deviceClaim": {
                        "deviceClassName": "gpu.nvidia.com",
                        "selectors": ["device.attributes['gpu.nvidia.com'].productName == 'H200'"],
                    },
                }
            ],
        ),
        "hatches": deployment(
            "hatches",
            runtimes=[runtime],
            placement=placement,
            pod=HATCHES,
            strategy={"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "50%"}},
        ),
        "own-server": deployment("own-server", runtimes=[server]),
        "tls": deployment("tls", tls={"secretRef": {"name": "tls-certificate"}}),
        "client-certificates": deployment(
            "client-certificates",
            tls={
                "secretRef": {"name": "certificate"},
                "clientAuth": "Required",
                "clientCaSecretRef": {"name": "clients"},
                "jobsSecretRef": {"name": "jobs"},
            },
        ),
    }


def histogram(*latencies_ms: float) -> list[int]:
    """Counts per bucket of these latencies."""
    counts = [0] * (len(LATENCY_BOUNDS_MS) + 1)
    for latency in latencies_ms:
        bucket = next((i for i, bound in enumerate(LATENCY_BOUNDS_MS) if latency <= bound), len(LATENCY_BOUNDS_MS))
        counts[bucket] += 1
    return counts


def change(time: float, before: int, after: int, reason: str = "LatencyBelowTarget") -> ChangeState:
    """A change of batch size."""
    return ChangeState(time=time, from_size=before, to_size=after, reason=reason, message="p95 is 40 of 100 ms")


def state(*models: ModelState, revision: int = 1, ready: bool = True) -> SidecarState:
    """What a sidecar answers."""
    return SidecarState(revision=revision, time=0.0, ready=ready, models=list(models) or [model_state()])


def model_state(name: str = "recognizer", **parts: Any) -> ModelState:
    """One model in one sidecar."""
    return ModelState(**{"name": name, "state": "Ready", "batch_size": 4, **parts})


def tuning_state(size: int = 4, held: str = "TargetMet", **parts: Any) -> TuningState:
    """How one sidecar decides on the batch size of a model."""
    bounds = BoundsState(
        size=size, knee=size, reach=size, in_time=size, fair_share=size, memory=size, cap=size, bound_by="Size"
    )
    fit = FitState(fixed_milliseconds=10.0, per_row_milliseconds=2.0, linear=True, knee=32, batches=48)
    usually = HoldState(reason=held, rule="StopRule", bound_by="InTime", cap=size)
    return TuningState(
        **{"controller": "Auto", "proposed_size": size, "usually": usually, "fit": fit, "bounds": bounds, **parts}
    )


def profile(node: str, kind: str, capacity: float, devices: int = 0) -> Raw:
    """An AcceleratorProfile of a node with one processor."""
    found: Raw = {"kind": kind, "capacityImagesPerSecond": f"{capacity:.2f}", "reason": "Benchmarked"}
    if devices:
        found["devices"] = [{"id": str(i), "memoryBytes": 1 << 30} for i in range(devices)]
    return {"metadata": {"name": node}, "status": {"processors": [found]}}
