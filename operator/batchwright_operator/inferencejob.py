"""The domain of InferenceJobs: plan, Indexed and commit Jobs, and a status that tells how far they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from batchwright_operator.actions import (
    CONFIG_MAP,
    INFERENCE_JOB,
    JOB,
    MODEL_DEPLOYMENT,
    NETWORK_POLICY,
    POD,
    PVC,
    Action,
    Decision,
    Delete,
    Event,
    Key,
    Raw,
    StatusWrite,
)
from batchwright_operator.conditions import Condition, find, render, rfc3339, shorten, unix
from batchwright_operator.domain import StoreView, Watch
from batchwright_operator.job_facts import (
    ANNOTATION_INDEX,
    JobFacts,
    child_job,
    is_left_behind,
    last_words,
    result_of,
    run_pod,
    server,
    succeeded_state,
)
from batchwright_operator.job_progress import RATE_WINDOW_S, progress
from batchwright_operator.live import Live, Rejection
from batchwright_operator.model import InvalidSpec
from batchwright_operator.model_job import InferenceJob, parse
from batchwright_operator.plan_job import AFTER, Phase, actions, deadline_of, delete, phase_of
from batchwright_operator.rendering_job import Step, data_claims, step_name
from batchwright_operator.replicas import VOLUMES_S, container_problem, volume_problem
from batchwright_operator.runners import INFERENCE_JOB_DOMAIN
from batchwright_operator.settings import Settings
from batchwright_operator.status_job import compare, events_of, is_terminal, status_of
from batchwright_worker.contract import LABEL_JOB, LABEL_STEP, CommitResult, PlanResult, RunnerState

WAIT_S = 3.0
"""How often a job that waits for another object looks for it."""
CONDITIONS = ("Complete", "Failed", "Suspended", "Reconciling", "Stalled", "DeadlineAtRisk", "WaitingForModels")


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedJob:
    """One InferenceJob and all that its decision needs."""

    raw: Raw
    settings: Settings
    token: str
    jobs: tuple[Raw, ...] = ()
    left_behind: tuple[Raw, ...] = ()
    """Jobs of a deleted InferenceJob of this name, which the garbage collector has not reached yet."""
    pods: tuple[Raw, ...] = ()
    """Of `jobs`."""
    states: Mapping[str, RunnerState] = field(default_factory=dict)
    """Pod uid -> newest state."""
    finished: Mapping[int, RunnerState] = field(default_factory=dict)
    deployments: Mapping[str, Raw] = field(default_factory=dict)
    claims: frozenset[str] = frozenset()
    rejection: Rejection | None = None


class InferenceJobDomain:
    """Reconciles InferenceJobs."""

    name = INFERENCE_JOB_DOMAIN

    def __init__(self, settings: Settings, live: Live) -> None:
        self._settings = settings
        self._live = live

    def watches(self) -> Iterable[Watch]:
        """Its objects, their children (by label), and the deployments that tasks name."""
        yield Watch(resource=INFERENCE_JOB, keys=own_keys)
        yield Watch(resource=JOB, keys=label_keys, label_selector=LABEL_JOB, index_labels=(LABEL_JOB,))
        for resource in (CONFIG_MAP, NETWORK_POLICY):
            yield Watch(resource=resource, keys=label_keys, label_selector=LABEL_JOB)
        yield Watch(resource=POD, keys=label_keys)
        yield Watch(resource=MODEL_DEPLOYMENT, keys=_no_keys)
        yield Watch(resource=PVC, keys=_no_keys)

    def observe(self, store: StoreView, key: Key) -> ObservedJob | None:
        """None: there is no such object, or it is being deleted (its children go with it)."""
        raw = store.get(INFERENCE_JOB, key.namespace, key.name)
        if raw is None or "deletionTimestamp" in raw["metadata"]:
            return None
        uid = raw["metadata"]["uid"]
        jobs = store.owned(JOB, uid)
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
            jobs=tuple(jobs),
            left_behind=tuple(
                child
                for child in store.labelled(JOB, LABEL_JOB, key.name, namespace=key.namespace)
                if _lives(child) and is_left_behind(child, raw)
            ),
            pods=tuple(pods),
            states=states,
            finished=dict(self._live.terminations.get(uid, {})),
            deployments={
                each["metadata"]["name"]: each for each in store.all(MODEL_DEPLOYMENT, namespace=key.namespace)
            },
            claims=frozenset(_by_name(store.all(PVC, namespace=key.namespace))),
            rejection=self._live.rejections.get(key),
        )

    def decide(self, observed: ObservedJob, now: float) -> Decision:
        """Pure."""
        return decide(observed, now)


def own_keys(raw: Raw) -> Iterator[Key]:
    """The key of an InferenceJob."""
    metadata = raw["metadata"]
    yield Key(domain=INFERENCE_JOB_DOMAIN, namespace=metadata["namespace"], name=metadata["name"])


def label_keys(raw: Raw) -> Iterator[Key]:
    """The key of the InferenceJob that a child's label names."""
    metadata = raw["metadata"]
    if name := (metadata.get("labels") or {}).get(LABEL_JOB):
        yield Key(domain=INFERENCE_JOB_DOMAIN, namespace=metadata["namespace"], name=name)


def _by_name(objects: Iterable[Raw]) -> dict[str, Raw]:
    return {each["metadata"]["name"]: each for each in objects}


def _no_keys(_raw: Raw) -> Iterator[Key]:
    return iter(())


# --- facts


def facts_of(observed: ObservedJob, job: InferenceJob, now: float) -> JobFacts:
    """What the raw objects mean."""
    jobs = {each["metadata"]["name"]: child_job(each) for each in observed.jobs if _lives(each)}
    steps: dict[Step, list[Raw]] = {"plan": [], "run": [], "commit": []}
    for pod in observed.pods:
        step = (pod["metadata"].get("labels") or {}).get(LABEL_STEP)
        if step in steps and not (step == "run" and _is_history(pod, observed.finished, now)):
            steps[step].append(pod)
    finished = {state.shard: state for pod in steps["run"] if (state := succeeded_state(pod)) is not None}
    active = [pods for pods in steps.values() if pods]
    return JobFacts(
        job=job,
        plan=jobs.get(step_name(job, "plan")),
        run=jobs.get(step_name(job, "run")),
        commit=jobs.get(step_name(job, "commit")),
        plan_result=result_of(steps["plan"], PlanResult),
        commit_result=result_of(steps["commit"], CommitResult),
        pods=tuple(run_pod(pod, observed.states.get(pod["metadata"]["uid"])) for pod in steps["run"]),
        finished={**observed.finished, **finished},
        servers={name: server(observed.deployments.get(name)) for name in job.deployments()},
        missing_claims=tuple(sorted(data_claims(job).keys() - observed.claims)),
        pod_trouble=_trouble(active[-1], now, observed.settings.unfit_seconds) if active else None,
        pods_pending=any(_pends(pod) for pod in observed.pods),
        last_words=shorten(last_words(active[-1]), 400) if active else "",
        rejection=observed.rejection,
    )


def _is_history(pod: Raw, finished: Mapping[int, RunnerState], now: float) -> bool:
    """Did this runner end well so long ago that its last word, which is kept, says all? (There may be thousands.)"""
    if (pod.get("status") or {}).get("phase") != "Succeeded":
        return False
    containers = pod["status"].get("containerStatuses") or ()
    ended = next(((each.get("state") or {}).get("terminated") for each in containers), None)
    index = (pod["metadata"].get("annotations") or {}).get(ANNOTATION_INDEX, "-1")
    old = ended is not None and str(ended.get("finishedAt", "")) < rfc3339(now - RATE_WINDOW_S)
    return old and int(index) in finished


def _pends(pod: Raw) -> bool:
    return _lives(pod) and (pod.get("status") or {}).get("phase") == "Pending"


def _lives(raw: Raw) -> bool:
    return "deletionTimestamp" not in raw["metadata"]


def _trouble(pods: Sequence[Raw], now: float, patience_s: float) -> tuple[str, str] | None:
    """Why no pod of a step can run: an image, a Secret, a claim, no node; None as soon as one runs."""
    waiting = [pod for pod in pods if (pod.get("status") or {}).get("phase") == "Pending" and _lives(pod)]
    running = [pod for pod in pods if (pod.get("status") or {}).get("phase") == "Running" and _lives(pod)]
    if running or not waiting:
        return None
    found = container_problem(waiting[0]) or volume_problem(waiting[0], now)
    if found is not None:
        return found.reason, found.message.replace("spec.pod.", "spec.runner.pod.")
    scheduled = find((waiting[0].get("status") or {}).get("conditions"), "PodScheduled")
    since = unix(scheduled.get("lastTransitionTime")) or now
    if scheduled.get("reason") != "Unschedulable" or now - since < patience_s:
        return None
    return "Unschedulable", f"pod {waiting[0]['metadata']['name']}: {shorten(str(scheduled.get('message')), 600)}"


# --- decision


def decide(observed: ObservedJob, now: float) -> Decision:
    """All actions, the status if it is worth a write, and the events that go with that write."""
    try:
        job = parse(observed.raw)
    except InvalidSpec as error:
        return _invalid(observed.raw, error, now)
    facts = facts_of(observed, job, now)
    if is_terminal(facts.old):
        return _after_the_end(facts, observed, now)
    done = progress(facts, now)
    phase = phase_of(facts, failed_items=done.failed, now=now)
    new = status_of(facts, phase, done, now)
    verdict = compare(facts.old, new, now, observed.settings.job_status_min_interval_seconds)
    return Decision(
        actions=(
            *map(delete, observed.left_behind),
            *actions(facts, phase, observed.settings, token=observed.token, now=now),
        ),
        status=None if verdict.status is None else _write(job, verdict.status),
        events=events_of(facts, phase, new) if verdict.status is not None else (),
        requeue_after_s=_look_again(facts, phase, verdict.due_in_s, now),
    )


def _write(job: InferenceJob, status: Raw) -> StatusWrite:
    return StatusWrite(resource=INFERENCE_JOB, regarding=job.raw, status=status)


def _look_again(facts: JobFacts, phase: Phase, due_s: float | None, now: float) -> float | None:
    due = [] if due_s is None else [due_s]
    if phase.name == "Waiting":
        due.append(WAIT_S)
    if facts.pods_pending and facts.pod_trouble is None:
        due.append(VOLUMES_S / 2)
    deadline = deadline_of(facts)
    if deadline is not None and phase.name in AFTER:
        due.append(max(0.1, deadline - now))
    if facts.job.spec.ttl_seconds_after_finished is not None and phase.ended:
        due.append(max(0.1, float(facts.job.spec.ttl_seconds_after_finished)))
    return min(due, default=None)


def _after_the_end(facts: JobFacts, observed: ObservedJob, now: float) -> Decision:
    """The status stays; what still runs is stopped; the object goes when its time is over."""
    old, job = facts.old, facts.job
    name = "Failed" if find(old.get("conditions"), "Failed").get("status") == "True" else "Completed"
    phase = Phase(name="Failed" if name == "Failed" else "Completed", reason=name, message="")
    wanted: tuple[Action, ...] = actions(facts, phase, observed.settings, token=observed.token, now=now)
    status = None
    if old.get("observedGeneration") != job.generation:
        status = _write(job, {**old, "observedGeneration": job.generation})
    left = _time_to_live(facts, now)
    if left is not None and left <= 0:
        own = Delete(resource=INFERENCE_JOB, namespace=job.namespace, name=job.name, uid=job.uid)
        return Decision(actions=(*wanted, own))
    return Decision(actions=wanted, status=status, requeue_after_s=left)


def _time_to_live(facts: JobFacts, now: float) -> float | None:
    seconds = facts.job.spec.ttl_seconds_after_finished
    if seconds is None:
        return None
    conditions = facts.old.get("conditions")
    turned = find(conditions, "Complete" if find(conditions, "Complete").get("status") == "True" else "Failed")
    ended = unix(turned.get("lastTransitionTime"))
    return None if ended is None else ended + seconds - now


def _invalid(raw: Raw, error: InvalidSpec, now: float) -> Decision:
    """A stored object that the schema would refuse today: say so, touch nothing else."""
    old: Raw = raw.get("status") or {}
    generation = int(raw["metadata"].get("generation", 0))
    wanted = [
        Condition(type=kind, status="True" if kind == "Stalled" else "False", reason="InvalidSpec", message=str(error))
        for kind in CONDITIONS
    ]
    conditions = render(wanted, old.get("conditions") or (), generation=generation, now=now)
    new = {**old, "observedGeneration": generation, "conditions": conditions, "summary": {"reason": "InvalidSpec"}}
    if new == old:
        return Decision()
    event = Event(regarding=raw, reason="InvalidSpec", message=str(error)[:1000], type="Warning")
    known = find(old.get("conditions"), "Stalled").get("reason") == "InvalidSpec"
    return Decision(
        status=StatusWrite(resource=INFERENCE_JOB, regarding=raw, status=new), events=() if known else (event,)
    )
