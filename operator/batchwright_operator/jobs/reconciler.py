"""The reconciler of InferenceJobs: plan, Indexed and commit Jobs, and a status with their progress."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from batchwright_operator.api.inference_job import InferenceJob, parse
from batchwright_operator.api.invalid_spec import InvalidSpec
from batchwright_operator.jobs.events import events_of
from batchwright_operator.jobs.facts import JobFacts, is_left_behind
from batchwright_operator.jobs.metrics import metrics_of
from batchwright_operator.jobs.observe import ObservedJob, facts_of
from batchwright_operator.jobs.phase import STEP_OF, JobPhase, deadline_of, phase_of
from batchwright_operator.jobs.plan import actions
from batchwright_operator.jobs.progress import progress
from batchwright_operator.jobs.status import is_terminal, status_of, write_decision
from batchwright_operator.kube.conditions import Truth, find
from batchwright_operator.kube.metadata import is_leaving
from batchwright_operator.kube.objects import (
    CONFIG_MAP,
    CORE_EVENT,
    INFERENCE_JOB,
    JOB,
    MODEL_DEPLOYMENT,
    NETWORK_POLICY,
    POD,
    PVC,
    Raw,
)
from batchwright_operator.kube.times import unix
from batchwright_operator.pods.problems import VOLUMES_S
from batchwright_operator.reconcile.decisions import Action, Decision, Delete, Key, StatusWrite
from batchwright_operator.reconcile.interfaces import Changes, StoreView, Watch
from batchwright_operator.reconcile.keys import INFERENCE_JOB_RECONCILER, label_keys, no_keys, own_keys
from batchwright_operator.reconcile.live_state import LiveState
from batchwright_operator.settings import Settings
from batchwright_operator.status.invalid_spec import invalid_spec
from batchwright_operator.status.write_policy import WRITES_PER_S
from batchwright_worker.api.names import LABEL_JOB

PODS_REFUSED: Final = "reason=FailedCreate,involvedObject.kind=Job"
"""A Job has no condition for pods that the API server refuses; an Event is all that there is."""
WAIT_S: Final = 3.0
"""How often a job that waits for another object looks for it."""
INVALID: Final[dict[str, Truth]] = {
    "Complete": "False",
    "Failed": "False",
    "Suspended": "False",
    "Reconciling": "False",
    "Stalled": "True",
    "DeadlineAtRisk": "Unknown",
    "WaitingForModels": "Unknown",
}
"""The conditions of a spec that cannot be parsed: Stalled, since a corrected spec goes on; Failed would be final."""


class InferenceJobReconciler:
    """Reconciles InferenceJobs."""

    name = INFERENCE_JOB_RECONCILER

    def __init__(self, settings: Settings, live: LiveState) -> None:
        self._settings = settings
        self._live = live
        self._keys_of_jobs: dict[str, Key] = {}
        """Uid of a child Job -> its InferenceJob, of the Jobs that were observed."""
        self._running = 0
        self._jobs_changed: Changes | None = None

    def watches(self) -> Iterable[Watch]:
        """Its objects, their children (by label), and the deployments that tasks name."""
        children = label_keys(self.name, LABEL_JOB)
        yield Watch(resource=INFERENCE_JOB, keys=own_keys(self.name))
        yield Watch(resource=JOB, keys=children, label_selector=LABEL_JOB, index_labels=(LABEL_JOB,))
        for resource in (CONFIG_MAP, NETWORK_POLICY):
            yield Watch(resource=resource, keys=children, label_selector=LABEL_JOB)
        yield Watch(resource=POD, keys=children)
        yield Watch(resource=CORE_EVENT, keys=self._keys_of_refusal, field_selector=PODS_REFUSED)
        yield Watch(resource=MODEL_DEPLOYMENT, keys=no_keys)
        yield Watch(resource=PVC, keys=no_keys)

    def _keys_of_refusal(self, event: Raw) -> Iterable[Key]:
        """A refusal of a pod concerns the InferenceJob whose Job it is about; it names that by its uid alone."""
        key = self._keys_of_jobs.get(str((event.get("involvedObject") or {}).get("uid")))
        return () if key is None else (key,)

    def observe(self, store: StoreView, key: Key) -> ObservedJob | None:
        """None: there is no such object, or it is being deleted (its children go with it)."""
        raw = store.get(INFERENCE_JOB, key.namespace, key.name)
        if raw is None or is_leaving(raw):
            self._keys_of_jobs = {job: of for job, of in self._keys_of_jobs.items() if of != key}
            return None
        uid = raw["metadata"]["uid"]
        jobs = store.owned(JOB, uid)
        self._keys_of_jobs |= {child["metadata"]["uid"]: key for child in jobs}
        pods = [pod for child in jobs for pod in store.owned(POD, child["metadata"]["uid"])]
        states = {
            each["metadata"]["uid"]: received.state
            for each in pods
            if (received := self._live.runners.get(each["metadata"]["uid"])) is not None
        }
        return ObservedJob(
            raw=raw,
            settings=self._settings,
            token=self._live.control_token(uid),
            running=self._running_jobs(store),
            jobs=tuple(jobs),
            left_behind=tuple(
                child
                for child in store.labelled(JOB, LABEL_JOB, key.name, namespace=key.namespace)
                if not is_leaving(child) and is_left_behind(child, raw)
            ),
            policies=tuple(store.owned(NETWORK_POLICY, uid)),
            pods=tuple(pods),
            refusals=tuple(_refusals(store, key.namespace, {child["metadata"]["uid"] for child in jobs})),
            states=states,
            finished=dict(self._live.terminations.get(uid, {})),
            deployments={
                each["metadata"]["name"]: each for each in store.all(MODEL_DEPLOYMENT, namespace=key.namespace)
            },
            claims=frozenset(_by_name(store.all(PVC, namespace=key.namespace))),
            rejection=self._live.rejections.get(key),
        )

    def _running_jobs(self, store: StoreView) -> int:
        """How many InferenceJobs have not ended; counted anew when one of them has changed."""
        if self._jobs_changed is None:
            self._jobs_changed = store.changes(INFERENCE_JOB)
        changed = self._jobs_changed.take()
        if changed is None or changed:
            self._running = sum(not is_terminal(each.get("status") or {}) for each in store.all(INFERENCE_JOB))
        return self._running

    def decide(self, observed: ObservedJob, now: float) -> Decision:
        """Pure."""
        return decide(observed, now)


def _refusals(store: StoreView, namespace: str, jobs: set[str]) -> Iterable[Raw]:
    """The Events that say that a pod of one of these Jobs was refused."""
    for event in store.all(CORE_EVENT, namespace=namespace):
        about = event.get("involvedObject") or {}
        if about.get("uid") in jobs and event.get("reason") == "FailedCreate":
            yield event


def _by_name(objects: Iterable[Raw]) -> dict[str, Raw]:
    return {each["metadata"]["name"]: each for each in objects}


# --- decision


def decide(observed: ObservedJob, now: float) -> Decision:
    """All actions, the status if it is worth a write, and the events that go with that write."""
    try:
        job = parse(observed.raw)
    except InvalidSpec as error:
        return invalid_spec(INFERENCE_JOB, observed.raw, error, conditions=INVALID, now=now)
    facts = facts_of(observed, job, now)
    if is_terminal(facts.old):
        return _after_the_end(facts, observed, now)
    done = progress(facts, now)
    phase = phase_of(facts, failed_items=done.failed, now=now)
    new = status_of(facts, phase, done, now)
    interval_s = max(observed.settings.job_status_min_interval_seconds, observed.running / WRITES_PER_S)
    write = write_decision(facts.old, new, now, interval_s)
    return Decision(
        actions=(
            # First, so that the name is free for our own Job by the next pass: the garbage collector takes its time.
            *(Delete.of(JOB, child) for child in observed.left_behind),
            *actions(facts, phase, observed.settings, token=observed.token, now=now),
        ),
        status=None if write.status is None else _write(job, write.status),
        events=events_of(facts, phase, new) if write.status is not None else (),
        requeue_after_s=_requeue_after_s(facts, phase, write.due_in_s, now),
        metrics=metrics_of(job.namespace, job.name, new),
    )


def _write(job: InferenceJob, status: Raw) -> StatusWrite:
    return StatusWrite(resource=INFERENCE_JOB, regarding=job.raw, status=status)


def _requeue_after_s(facts: JobFacts, phase: JobPhase, due_s: float | None, now: float) -> float | None:
    due = [each for each in (due_s, phase.due_in_s) if each is not None]
    if phase.name == "Waiting":
        due.append(WAIT_S)
    if facts.pods_pending and facts.pod_problem is None:
        due.append(VOLUMES_S / 2)
    deadline = deadline_of(facts)
    if deadline is not None and phase.name in STEP_OF:
        due.append(max(0.1, deadline - now))
    if facts.job.spec.ttl_seconds_after_finished is not None and phase.ended:
        due.append(max(0.1, float(facts.job.spec.ttl_seconds_after_finished)))
    return min(due, default=None)


def _after_the_end(facts: JobFacts, observed: ObservedJob, now: float) -> Decision:
    """The status stays as it was written; what still runs is stopped; the object is deleted when its TTL is over."""
    old, job = facts.old, facts.job
    name = "Failed" if find(old.get("conditions"), "Failed").get("status") == "True" else "Completed"
    phase = JobPhase(name="Failed" if name == "Failed" else "Completed", reason=name, message="")
    wanted: tuple[Action, ...] = actions(facts, phase, observed.settings, token=observed.token, now=now)
    status = None
    if old.get("observedGeneration") != job.generation:
        status = _write(job, {**old, "observedGeneration": job.generation})
    left = _time_to_live(facts, now)
    # The object itself is deleted: its Jobs are owned by it, and the garbage collector takes them along.
    if left is not None and left <= 0:
        return Decision(actions=(*wanted, Delete.of(INFERENCE_JOB, job.raw)))
    metrics = metrics_of(job.namespace, job.name, old)
    return Decision(actions=wanted, status=status, requeue_after_s=left, metrics=metrics)


def _time_to_live(facts: JobFacts, now: float) -> float | None:
    seconds = facts.job.spec.ttl_seconds_after_finished
    if seconds is None:
        return None
    conditions = facts.old.get("conditions")
    turned = find(conditions, "Complete" if find(conditions, "Complete").get("status") == "True" else "Failed")
    ended = unix(turned.get("lastTransitionTime"))
    return None if ended is None else ended + seconds - now
