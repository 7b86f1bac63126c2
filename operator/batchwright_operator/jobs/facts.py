"""An InferenceJob's child Jobs, pods and deployments as facts; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from batchwright_operator.api.inference_job import InferenceJob
from batchwright_operator.jobs.children import RUNNER, Certificate, Step
from batchwright_operator.jobs.runner_pods import RunPod
from batchwright_operator.kube.conditions import find, holds
from batchwright_operator.kube.metadata import controller_of
from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import unix
from batchwright_operator.pods.problems import Problem
from batchwright_operator.reconcile.live_state import Rejection
from batchwright_worker.api.messages import CommitResult, PlanResult, RunnerState


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildJob:
    """A batch/v1 Job. `failure`: (reason, message) once it has failed permanently."""

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
    """From a raw Job. `FailureTarget` counts as failed: it is set as soon as that is decided, `Failed` only when the
    last pod has ended, which a grace period may put off."""
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
    """Was the Job made for an InferenceJob of the same name, which is gone now that `job` has the name?

    The garbage collector deletes it in its own time; until then it holds the name that our own Job needs. A Job younger
    than `job` was not left behind: then it is `job` that is gone, and the cache has not seen that yet.
    """
    owner, metadata = controller_of(child), job["metadata"]
    if owner is None or any(owner.get(part) != job.get(part) for part in ("apiVersion", "kind")):
        return False
    older = str(child["metadata"].get("creationTimestamp", "")) <= str(metadata.get("creationTimestamp", ""))
    return older and owner["name"] == metadata["name"] and owner["uid"] != metadata["uid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why no pod of a child Job can be made (a quota, a LimitRange, Pod Security, a webhook), and since when."""

    message: str
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A ModelDeployment that a task names. `note`: reason and message of its Ready condition while it is not ready."""

    exists: bool = False
    ready_replicas: int = 0
    models: frozenset[str] = frozenset()
    note: str = ""
    tls: Certificate | None = None


def server(raw: Raw | None) -> Server:
    """From a raw ModelDeployment; None where there is none."""
    if raw is None:
        return Server()
    status = raw.get("status") or {}
    ready = find(status.get("conditions"), "Ready")
    note = "" if ready.get("status") == "True" else f"{ready.get('reason', '')}: {ready.get('message', '')}"
    tls = (raw.get("spec") or {}).get("tls")
    service = f"{raw['metadata']['name']}.{raw['metadata']['namespace']}.svc"
    return Server(
        exists=True,
        ready_replicas=int(status.get("readyReplicas") or 0),
        models=frozenset(str(model.get("name")) for model in (raw.get("spec") or {}).get("models") or ()),
        note=note.strip(": "),
        tls=_certificate(tls, service) if tls else None,
    )


def _certificate(tls: Raw, service: str) -> Certificate:
    return Certificate(
        secret=tls["secretRef"]["name"],
        server_name=tls.get("serverName") or service,
        asks_clients=tls.get("clientAuth") == "Required",
        client_secret=(tls.get("jobsSecretRef") or {}).get("name"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFacts:
    """Everything that a decision about one InferenceJob needs."""

    job: InferenceJob
    plan: ChildJob | None = None
    run: ChildJob | None = None
    commit: ChildJob | None = None
    leaving: Mapping[Step, Raw] = field(default_factory=dict)
    """Child Jobs that are being deleted."""
    plan_result: PlanResult | None = None
    commit_result: CommitResult | None = None
    policies: tuple[Raw, ...] = ()
    """The NetworkPolicies that it owns."""
    pods: tuple[RunPod, ...] = ()
    finished: Mapping[int, RunnerState] = field(default_factory=dict)
    """Shard -> the final state of its runner, which succeeded."""
    servers: Mapping[str, Server] = field(default_factory=dict)
    missing_claims: tuple[str, ...] = ()
    pod_problem: Problem | None = None
    """Why no pod of the step that is on can run."""
    refusal: Refusal | None = None
    """Why no pod of the step that is on exists."""
    pods_pending: bool = False
    """Some pod has not started yet: a reason may show with time alone."""
    last_message: str = ""
    """The termination message of the newest failed pod of the step that is on."""
    rejection: Rejection | None = None

    @property
    def old(self) -> Raw:
        """The status that is written."""
        return self.job.raw.get("status") or {}

    @property
    def certificates(self) -> dict[str, Certificate]:
        """Of the deployments that are served by TLS."""
        return {name: server.tls for name, server in self.servers.items() if server.tls is not None}

    @property
    def shards(self) -> int | None:
        """How many shards there are, once that is known."""
        if self.plan_result is not None and not self.plan_result.error:
            return self.plan_result.shards
        if self.run is not None:
            return self.run.completions
        total = (self.old.get("shards") or {}).get("total")
        return int(total) if total else None

    @property
    def image(self) -> str | None:
        """That the runner of the first step was made with; None: there is no step yet."""
        for child in self.children().values():
            for each in child.raw["spec"]["template"]["spec"]["containers"]:
                if each["name"] == RUNNER:  # a webhook may have put others beside it
                    return str(each["image"])
        return None

    def children(self) -> dict[Step, ChildJob]:
        """The child Jobs that exist, in the order in which they run."""
        steps: dict[Step, ChildJob | None] = {"plan": self.plan, "run": self.run, "commit": self.commit}
        return {step: each for step, each in steps.items() if each is not None}


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
