"""A cluster of real nodes with the product at work, and a namespace of somebody who uses it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e2e.cluster import Cluster, ClusterSpec, NodeSpec, kubectl_path
from e2e.demo.kubectl import Kubectl, condition, wait_for
from tests.nodes.older_version import Version

SYSTEM, PLACE = "batchwright-system", "shop"
PATIENCE = float(os.environ.get("BATCHWRIGHT_PATIENCE", "1"))
"""On a machine that does other things too, everything takes longer."""
FUNCTIONS = """
import numpy as np

def row(inputs):
    made = np.zeros(4, np.float32)
    made[int(inputs["item"]["data"]["v"]) % 4] = 1.0
    return {"x": made}

def best(inputs):
    (answer,) = inputs.values()
    return {"best": int(np.asarray(answer["argmax"]).reshape(-1)[0])}
"""
SMALL = {"requests": {"cpu": "20m", "memory": "64Mi"}}


def model_deployment(name: str = "echo") -> dict[str, Any]:
    """Two replicas that take 150 ms for a batch of at most four, so that a job takes a while."""
    artifact = {"format": "emulated", "emulated": {"fixedMicroseconds": 150_000, "perRowMicroseconds": 1_000}}
    model = {
        "name": "echo", "artifacts": [artifact], "batching": {"maxSize": 4},
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [4]}],
        "outputs": [{"name": "argmax", "datatype": "INT64", "shape": [1]}],
    }  # fmt: skip
    spec = {"replicas": 2, "models": [model], "runtimes": [{"accelerator": "cpu", "resources": SMALL}]}
    return _object("ModelDeployment", name, spec)


def inference_job(name: str) -> dict[str, Any]:
    tasks = [
        {"name": "row", "cpu": {"function": "upgrade_functions:row"}},
        {"name": "ask", "dependsOn": ["row"], "model": {"deployment": "echo", "model": "echo"}},
        {"name": "best", "dependsOn": ["ask"], "cpu": {"function": "upgrade_functions:best"}},
    ]
    spec = {
        "input": {"uri": "pvc://data/items.jsonl", "format": "jsonl", "shardSize": 300},
        "output": {"uri": f"pvc://data/{name}", "format": "jsonl"},
        "tasks": tasks, "parallelism": 1,
        "runner": {"configMaps": ["functions"], "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}}},
    }  # fmt: skip
    return _object("InferenceJob", name, spec)


def _object(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    head = {"name": name, "namespace": PLACE}
    return {"apiVersion": "batchwright.dev/v1alpha1", "kind": kind, "metadata": head, "spec": spec}


class Place:
    """A cluster with the older version at work."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.kubectl = Kubectl(binary=kubectl_path(), kubeconfig=cluster.kubeconfig)

    def apply(self, *bodies: dict[str, Any]) -> None:
        self.kubectl.run("apply", "--server-side", "-f", "-", stdin="\n---\n".join(map(json.dumps, bodies)))

    def load(self, version: Version) -> None:
        """Its images are in every node."""
        self.cluster.load_image(*version.archives())

    def install(self, version: Version, **settings: str) -> None:
        """Returns when that version's operator is up; `settings` are environment variables of it."""
        self.load(version)
        self.kubectl.apply_folder(version.overlay())
        if settings:
            given = [f"{name}={value}" for name, value in settings.items()]
            self.kubectl.run("set", "env", "-n", SYSTEM, "deployment/batchwright-operator", *given)
        self.kubectl.run(
            "rollout", "status", "-n", SYSTEM, "deployment/batchwright-operator",
            f"--timeout={round(180 * PATIENCE)}s", timeout_s=200 * PATIENCE,
        )  # fmt: skip

    def stop_operator(self) -> None:
        """Returns when none is left; pods serve on."""
        self.kubectl.run("scale", "-n", SYSTEM, "deployment/batchwright-operator", "--replicas=0")
        operators = ("pod", "-n", SYSTEM, "-l", "app.kubernetes.io/component=operator")
        self.kubectl.run("wait", "--for=delete", *operators, "--timeout=120s", timeout_s=130)

    def data(self, count: int) -> Path:
        """Namespace, claim with the items, and the functions; the claim's folder."""
        label = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PLACE, "labels": label}})
        claim = {"accessModes": ["ReadWriteMany"], "storageClassName": "batchwright-shared",
                 "resources": {"requests": {"storage": "10Mi"}}}  # fmt: skip
        head = {"namespace": PLACE}
        self.apply(
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {**head, "name": "data"}, "spec": claim},
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**head, "name": "functions"},
             "data": {"upgrade_functions.py": FUNCTIONS}},
        )  # fmt: skip
        name = wait_for(
            lambda: (self.get("pvc", "data") or {}).get("spec", {}).get("volumeName"), what="the claim", timeout_s=60
        )
        folder = Path(self.kubectl.json("get", "pv", name)["spec"]["hostPath"]["path"])
        lines = (json.dumps({"id": f"item-{number:04}", "v": number}) for number in range(count))
        (folder / "items.jsonl").write_text("\n".join(lines))
        return folder

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        return self.kubectl.find(kind, name, "-n", PLACE)

    def pods(self, selector: str) -> list[dict[str, Any]]:
        return list(self.kubectl.json("get", "pods", "-n", PLACE, "-l", selector)["items"])

    def models(self) -> dict[str, tuple[int, ...]]:
        """Uid of each model pod that is to stay -> restarts of its containers."""
        found = self.pods("app.kubernetes.io/component=model")
        return {
            each["metadata"]["uid"]: restarts(each) for each in found if not each["metadata"].get("deletionTimestamp")
        }

    def await_condition(self, kind: str, name: str, wanted: str, timeout_s: float) -> dict[str, Any]:
        return wait_for(
            lambda: found if condition(found := self.get(kind, name), wanted).get("status") == "True" else None,
            what=f"{kind} {name} {wanted}", timeout_s=timeout_s * PATIENCE,
            seen=lambda: json.dumps((self.get(kind, name) or {}).get("status"))[:1500],
        )  # fmt: skip

    def progress(self, job: str) -> int:
        return int(((self.get("inferencejob", job) or {}).get("status") or {}).get("progressPercentage") or 0)


@contextmanager
def unmeasured(name: str) -> Iterator[Place]:
    """On two unequal nodes that opt out of benchmarks, with nothing installed."""
    nodes = (NodeSpec(name="fast", cpus=1.0), NodeSpec(name="slow", cpus=0.5))
    with Cluster.up(ClusterSpec(name=f"{name}-{os.getpid()}", nodes=nodes)) as cluster:
        place = Place(cluster)
        for node in cluster.nodes:
            place.kubectl.run("label", "node", node, "batchwright.dev/benchmark-opt-out=true")
        yield place


def restarts(pod: dict[str, Any]) -> tuple[int, ...]:
    status = pod["status"]
    every = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    return tuple(int(each["restartCount"]) for each in every)


def records(folder: Path) -> list[dict[str, Any]]:
    parts = sorted(folder.glob("part-*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]
