"""An InferenceJob's child Jobs, pods and deployments as facts; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from batchwright_operator.api.inference_job import InferenceJob
from batchwright_operator.jobs.children import RUNNER, Step
from batchwright_operator.kube.conditions import find, holds
from batchwright_operator.kube.metadata import annotation, controller_of, is_leaving
from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import unix
from batchwright_operator.pods.lifecycle import container_state
from batchwright_operator.pods.problems import Problem
from batchwright_operator.reconcile.live_state import Rejection
from batchwright_worker.api.messages import CommitResult, PlanResult, RunnerState

ANNOTATION_INDEX: Final = "batch.kubernetes.io/job-completion-index"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildJob:
    """A batch/v1 Job. `failure`: (reason, message) once it has failed for good."""

    raw: Raw
    complete: bool = False
    failure: tuple[str, str] | None = None
    start: float | None = None
    end: float | None = None
    completions: int = 1
    completed_indexes: str = ""
    failed_indexes: str = ""

    @property
    def ended(self) -> bool:
        """Nothing of it will run any more."""
        return self.complete or self.failure is not None


def child_job(raw: Raw) -> ChildJob:
    """From a raw Job. It has failed as soon as that is decided, though its pods may still be ending."""
    status = raw.get("status") or {}
    conditions = status.get("conditions")
    failed = next((each for kind in ("Failed", "FailureTarget") if (each := find(conditions, kind))), {})
    return ChildJob(
        raw=raw,
        complete=holds(conditions, "Complete"),
        failure=(str(failed.get("reason", "")), str(failed.get("message", "")))
        if failed.get("status") == "True"
        else None,
        start=unix(status.get("startTime")),
        end=unix(status.get("completionTime")),
        completions=int(raw["spec"].get("completions") or 1),
        completed_indexes=str(status.get("completedIndexes") or ""),
        failed_indexes=str(status.get("failedIndexes") or ""),
    )


def is_left_behind(child: Raw, job: Raw) -> bool:
    """Was the Job made for an InferenceJob of the same name, which is gone now that `job` has the name? A Job younger
    than `job` was not: then it is `job` that is gone, and whoever asks has not seen that yet."""
    owner, metadata = controller_of(child), job["metadata"]
    if owner is None or any(owner.get(part) != job.get(part) for part in ("apiVersion", "kind")):
        return False
    older = str(child["metadata"].get("creationTimestamp", "")) <= str(metadata.get("creationTimestamp", ""))
    return older and owner["name"] == metadata["name"] and owner["uid"] != metadata["uid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A ModelDeployment that a task names. `note` says why it is not ready, in its own words."""

    exists: bool = False
    ready_replicas: int = 0
    models: frozenset[str] = frozenset()
    note: str = ""


def server(raw: Raw | None) -> Server:
    """From a raw ModelDeployment; None where there is none."""
    if raw is None:
        return Server()
    status = raw.get("status") or {}
    ready = find(status.get("conditions"), "Ready")
    note = "" if ready.get("status") == "True" else f"{ready.get('reason', '')}: {ready.get('message', '')}"
    return Server(
        exists=True,
        ready_replicas=int(status.get("readyReplicas") or 0),
        models=frozenset(str(model.get("name")) for model in (raw.get("spec") or {}).get("models") or ()),
        note=note.strip(": "),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPod:
    """A pod of the run Job: when its runner started and ended, and what it says (None: not heard yet)."""

    name: str
    shard: int
    created: float
    start: float | None = None
    end: float | None = None
    exit_code: int | None = None
    leaving: bool = False
    state: RunnerState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFacts:
    """All that a decision about one InferenceJob needs."""

    job: InferenceJob
    plan: ChildJob | None = None
    run: ChildJob | None = None
    commit: ChildJob | None = None
    plan_result: PlanResult | None = None
    commit_result: CommitResult | None = None
    pods: tuple[RunPod, ...] = ()
    finished: Mapping[int, RunnerState] = field(default_factory=dict)
    """Shard -> what its runner said at its successful end."""
    servers: Mapping[str, Server] = field(default_factory=dict)
    missing_claims: tuple[str, ...] = ()
    pod_problem: Problem | None = None
    """Why no pod of the step that is on can run."""
    pods_pending: bool = False
    """Some pod has not started yet: time alone may tell why."""
    last_words: str = ""
    """What the newest failed pod of the step that is on said at its end."""
    rejection: Rejection | None = None

    @property
    def old(self) -> Raw:
        """The status that is written."""
        return self.job.raw.get("status") or {}

    @property
    def shards(self) -> int | None:
        """How many shards there are, once that is known."""
        if self.plan_result is not None and not self.plan_result.error:
            return self.plan_result.shards
        if self.run is not None:
            return self.run.completions
        total = (self.old.get("shards") or {}).get("total")
        return int(total) if total else None

    def children(self) -> dict[Step, ChildJob]:
        """The child Jobs that exist, in the order in which they run."""
        steps: dict[Step, ChildJob | None] = {"plan": self.plan, "run": self.run, "commit": self.commit}
        return {step: each for step, each in steps.items() if each is not None}


def shard_of(pod: Raw) -> int:
    """The index of the run Job that the pod works on; -1 for a pod of another step."""
    return int(annotation(pod, ANNOTATION_INDEX) or -1)


def run_pod(pod: Raw, state: RunnerState | None) -> RunPod:
    """From a raw pod of the run Job."""
    metadata = pod["metadata"]
    runner = container_state(pod, RUNNER)
    ended = runner.get("terminated")
    times = ended or runner.get("running") or {}
    return RunPod(
        name=metadata["name"],
        shard=shard_of(pod),
        created=unix(metadata.get("creationTimestamp")) or 0.0,
        start=unix(times.get("startedAt")),
        end=unix(ended.get("finishedAt")) if ended else None,
        exit_code=int(ended.get("exitCode", -1)) if ended else None,
        leaving=is_leaving(pod),
        state=state if ended is None else _message(pod, RunnerState),
    )


def result_of(pods: Sequence[Raw], message: type[PlanResult] | type[CommitResult]) -> Any:
    """The newest result that a pod of a step left: of one that succeeded if there is one; None without any."""
    ended = [(each, found) for each in pods if (found := termination(each)) is not None]
    ended.sort(key=lambda item: (item[1][0] == 0, str(item[0]["metadata"].get("creationTimestamp", ""))), reverse=True)
    return next(filter(None, (_message(pod, message) for pod, _ in ended)), None)


def last_words(pods: Sequence[Raw]) -> str:
    """What the newest pod that failed said at its end, if that is text for people."""
    failed = [each for each in pods if (found := termination(each)) is not None and found[0] != 0]
    newest = max(failed, key=lambda each: str(each["metadata"].get("creationTimestamp", "")), default=None)
    ended = termination(newest) if newest else None
    return "" if ended is None else ended[1].strip()


def termination(pod: Raw) -> tuple[int, str] | None:
    """Exit status and message of the runner's end; None while it has not ended."""
    ended = container_state(pod, RUNNER).get("terminated")
    return None if ended is None else (int(ended.get("exitCode", -1)), str(ended.get("message") or ""))


def succeeded_state(pod: Raw) -> RunnerState | None:
    """What a runner that ended well said last; None for others and for a message that is not one."""
    ended = termination(pod)
    if ended is None or ended[0] != 0:
        return None
    try:
        return msgspec.json.decode(ended[1], type=RunnerState)
    except msgspec.MsgspecError:
        return None


def _message(pod: Raw, kind: type[Any]) -> Any:
    ended = termination(pod)
    try:
        return msgspec.json.decode(ended[1], type=kind) if ended and ended[1] else None
    except msgspec.MsgspecError:
        return None


def deployments_unknown(facts: JobFacts) -> list[str]:
    """Models that tasks name and their existing deployment does not have, as text."""
    found = []
    for task in facts.job.tasks:
        if task.model is None or not (there := facts.servers.get(task.model.deployment, Server())).exists:
            continue
        if task.model.model not in there.models:
            where, has = task.model.deployment, ", ".join(sorted(there.models)) or "none"
            found.append(f"task {task.name}: ModelDeployment {where} has no model {task.model.model} (it has {has})")
    return found
