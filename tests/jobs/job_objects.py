"""Builders: an InferenceJob, and a small world in which its Jobs and pods come and go."""

from __future__ import annotations

from typing import Any

import msgspec

from batchwright_operator.jobs.reconciler import InferenceJobReconciler
from batchwright_operator.kube.conditions import find
from batchwright_operator.kube.objects import INFERENCE_JOB, JOB, MODEL_DEPLOYMENT, POD, PVC, Raw
from batchwright_operator.kube.times import rfc3339
from batchwright_operator.reconcile.decisions import Key
from batchwright_operator.reconcile.live_state import LiveState, Received
from batchwright_operator.settings import Settings
from batchwright_worker.api.messages import CommitResult, PlanResult, RunnerState, TaskState
from tests.deployments.deployment_objects import NAMESPACE, deployment
from tests.deployments.tiny_api import SmallWorld

KEY = Key(reconciler="inferencejob", namespace=NAMESPACE, name="pages")


def job(name: str = "pages", **spec: Any) -> Raw:
    """An InferenceJob of two tasks, as the API server stores it."""
    tasks = [
        {"name": "decode", "cpu": {"function": "decode"}},
        {"name": "read", "dependsOn": ["decode"], "model": {"deployment": "ocr", "model": "recognizer"}},
    ]
    body = {
        "input": {"uri": "pvc://data/pages", "format": "images", "shardSize": 10},
        "output": {"uri": "pvc://data/out"},
        "tasks": tasks,
        "parallelism": 2,
        **spec,
    }
    return {
        "apiVersion": "batchwright.dev/v1alpha1",
        "kind": "InferenceJob",
        "metadata": {"name": name, "namespace": NAMESPACE, "uid": f"uid-of-{name}", "generation": 1},
        "spec": body,
        "status": {"observedGeneration": -1},
    }


def runner(shard: int, succeeded: int = 0, failed: int = 0, **parts: Any) -> RunnerState:
    """What a runner says."""
    tasks = [
        TaskState(name="read", kind="Model", succeeded=succeeded, failed=failed, rows=succeeded, mean_batch_size=4.0)
    ]
    body: Raw = {"revision": 1, "time": 0.0, "items_total": 10, "tasks": tasks, **parts}
    return RunnerState(shard=shard, items_succeeded=succeeded, items_failed=failed, **body)


class World(SmallWorld):
    """A small API with one InferenceJob `pages`, the ModelDeployment that it names and the claim of its data."""

    def __init__(self, raw: Raw | None = None, *, ready: int = 1, served: bool = True, claim: bool = True) -> None:
        self.live = LiveState(control_key=b"key")
        super().__init__(InferenceJobReconciler(Settings(), self.live), KEY)
        self.api.put(INFERENCE_JOB, raw or job())
        if served:
            self.serve(ready)
        if claim:
            self.api.put(PVC, {"metadata": {"name": "data", "namespace": NAMESPACE}})

    def serve(self, ready: int = 1, **spec: Any) -> None:
        condition = {
            "type": "Ready",
            "status": "True" if ready else "False",
            "reason": "Progressing",
            "message": "soon",
        }
        self.api.put(
            MODEL_DEPLOYMENT, deployment(**spec) | {"status": {"readyReplicas": ready, "conditions": [condition]}}
        )

    @property
    def raw(self) -> Raw:
        [found] = self.api.all(INFERENCE_JOB)
        return found

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.raw["status"])

    def true(self) -> list[str]:
        """Types of the conditions that are True."""
        return [each["type"] for each in self.status["conditions"] if each["status"] == "True"]

    def said(self, kind: str) -> str:
        """Reason and message of a condition."""
        found = find(self.status["conditions"], kind)
        return f"{found['reason']}: {found['message']}"

    def change(self, **spec: Any) -> None:
        """The user edits the spec."""
        self.api.put(INFERENCE_JOB, self.raw | {"spec": self.raw["spec"] | spec})

    # --- the Job controller and the kubelet

    def child(self, step: str) -> Raw | None:
        return self.api.get(JOB, NAMESPACE, f"pages-{step}")

    def tell(self, step: str, *conditions: str, reason: str = "", **status: Any) -> None:
        """Status of a child Job."""
        found = self.child(step)
        assert found is not None
        made = [{"type": each, "status": "True", "reason": reason, "message": "told"} for each in conditions]
        self.api.put(
            JOB,
            found
            | {
                "status": {
                    "startTime": rfc3339(self.api.now),
                    **(found.get("status") or {}),
                    "conditions": made,
                    **status,
                }
            },
        )

    def pod(self, step: str, name: str, shard: int | None = None) -> Raw:
        """A pod of a step, as the Job controller makes it; its runner runs."""
        child = self.child(step)
        assert child is not None
        notes = {} if shard is None else {"batch.kubernetes.io/job-completion-index": str(shard)}
        metadata = {"name": name, "namespace": NAMESPACE, "labels": child["metadata"]["labels"], "annotations": notes}
        owner = {"kind": "Job", "name": child["metadata"]["name"], "uid": child["metadata"]["uid"], "controller": True}
        body = {"metadata": metadata | {"ownerReferences": [owner]}, "spec": child["spec"]["template"]["spec"]}
        running = {"name": "runner", "state": {"running": {"startedAt": rfc3339(self.api.now)}}}
        return self.api.put(POD, body | {"status": {"phase": "Running", "containerStatuses": [running]}})

    def hear(self, pod: Raw, state: RunnerState) -> None:
        """The follower got an answer."""
        state = msgspec.structs.replace(state, time=self.api.now)
        self.live.runners[pod["metadata"]["uid"]] = Received(state=state, received_at=self.api.now)

    def end(self, pod: Raw, message: Any, code: int = 0) -> None:
        """The runner of this pod ends."""
        text = message if isinstance(message, str) else msgspec.json.encode(message).decode()
        [before] = pod["status"]["containerStatuses"]
        started = before["state"]["running"]["startedAt"]
        ended = {"exitCode": code, "message": text, "startedAt": started, "finishedAt": rfc3339(self.api.now)}
        found = {"name": "runner", "state": {"terminated": ended}}
        self.live.runners.pop(pod["metadata"]["uid"], None)
        self.api.put(POD, pod | {"status": {"phase": "Failed" if code else "Succeeded", "containerStatuses": [found]}})

    # --- a whole job

    def planned(self, items: int = 25, shards: int = 3) -> None:
        """The plan Job has done its work, and the run Job is there."""
        self.settle()
        self.end(self.pod("plan", "plan-1"), PlanResult(items=items, shards=shards, digest="d"))
        self.tell("plan", "Complete")
        self.settle()
        self.tell("run")

    def committed(self, **totals: int) -> None:
        """All shards are done and the commit Job, too."""
        self.tell("run", "Complete", completedIndexes="0-2")
        self.settle()
        self.end(self.pod("commit", "commit-1"), CommitResult(**({"items": 25, "succeeded": 24, "failed": 1} | totals)))
        self.tell("commit", "Complete")
