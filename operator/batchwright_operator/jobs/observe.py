"""From the raw objects of an InferenceJob to what they mean; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from batchwright_operator.api.inference_job import InferenceJob
from batchwright_operator.jobs.children import RUNNER, Step, data_claims, step_name
from batchwright_operator.jobs.facts import JobFacts, Refusal, child_job, server
from batchwright_operator.jobs.progress import RATE_WINDOW_S
from batchwright_operator.jobs.runner_pods import last_message, result_of, run_pod, shard_of, succeeded_state
from batchwright_operator.kube.conditions import find, shorten
from batchwright_operator.kube.metadata import controller_uid, is_leaving, label
from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import rfc3339, unix
from batchwright_operator.pods.endings import Ended, ended_again, ending
from batchwright_operator.pods.lifecycle import container_state, is_over
from batchwright_operator.pods.problems import Problem, container_problem, scheduling_problem, volume_problem, worst
from batchwright_operator.reconcile.live_state import Rejection
from batchwright_operator.settings import Settings
from batchwright_worker.api.messages import CommitResult, PlanResult, RunnerState
from batchwright_worker.api.names import LABEL_STEP

IMAGE_FIELDS: Final = "the image or spec.runner.pod.imagePullSecrets"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedJob:
    """One InferenceJob and everything that its decision needs."""

    raw: Raw
    settings: Settings
    token: str
    running: int = 1
    """How many InferenceJobs have not ended, which share a bound of writes about progress."""
    jobs: tuple[Raw, ...] = ()
    left_behind: tuple[Raw, ...] = ()
    """Jobs of a deleted InferenceJob of this name, which the garbage collector has not reached yet."""
    policies: tuple[Raw, ...] = ()
    pods: tuple[Raw, ...] = ()
    """Of `jobs`."""
    refusals: tuple[Raw, ...] = ()
    """Events about pods of `jobs` that the API server refused."""
    states: Mapping[str, RunnerState] = field(default_factory=dict)
    """Pod uid -> newest state."""
    finished: Mapping[int, RunnerState] = field(default_factory=dict)
    deployments: Mapping[str, Raw] = field(default_factory=dict)
    claims: frozenset[str] = frozenset()
    rejection: Rejection | None = None


def facts_of(observed: ObservedJob, job: InferenceJob, now: float) -> JobFacts:
    """What the raw objects mean."""
    jobs = {each["metadata"]["name"]: child_job(each) for each in observed.jobs if not is_leaving(each)}
    leaving = {each["metadata"]["name"]: each for each in observed.jobs if is_leaving(each)}
    steps: dict[Step, list[Raw]] = {"plan": [], "run": [], "commit": []}
    for pod in observed.pods:
        step = label(pod, LABEL_STEP)
        if step in steps and not (step == "run" and _is_history(pod, observed.finished, now)):
            steps[step].append(pod)
    finished = {state.shard: state for pod in steps["run"] if (state := succeeded_state(pod)) is not None}
    active = [pods for pods in steps.values() if pods]
    return JobFacts(
        job=job,
        plan=jobs.get(step_name(job, "plan")),
        run=jobs.get(step_name(job, "run")),
        commit=jobs.get(step_name(job, "commit")),
        leaving={step: found for step in steps if (found := leaving.get(step_name(job, step))) is not None},
        policies=observed.policies,
        plan_result=result_of(steps["plan"], PlanResult),
        commit_result=result_of(steps["commit"], CommitResult),
        pods=tuple(run_pod(pod, observed.states.get(pod["metadata"]["uid"])) for pod in steps["run"]),
        finished={**observed.finished, **finished},
        servers={name: server(observed.deployments.get(name)) for name in job.deployments()},
        missing_claims=tuple(sorted(data_claims(job).keys() - observed.claims)),
        pod_problem=_problem(active[-1], now, observed.settings.unfit_seconds) if active else None,
        refusal=_refusal(observed),
        pods_pending=any(_pends(pod) for pod in observed.pods),
        last_message=shorten(last_message(active[-1]), 400) if active else "",
        rejection=observed.rejection,
    )


def _is_history(pod: Raw, finished: Mapping[int, RunnerState], now: float) -> bool:
    """Did this runner succeed so long ago that its final state, which is kept, is enough? There may be thousands of
    such pods, and each pass would parse them all; only those of the rate's window are still read."""
    if (pod.get("status") or {}).get("phase") != "Succeeded":
        return False
    ended = container_state(pod, RUNNER).get("terminated")
    old = ended is not None and str(ended.get("finishedAt", "")) < rfc3339(now - RATE_WINDOW_S)
    return old and shard_of(pod) in finished


def _refusal(observed: ObservedJob) -> Refusal | None:
    """Of the Job that is on: its newest Event, while it has no pod that is not over. Once there is one, what was
    refused before is history, or a bound on how many run at once."""
    on = [each for each in observed.jobs if not is_leaving(each) and not child_job(each).ended]
    uids = {each["metadata"]["uid"] for each in on if not each["spec"].get("suspend")}
    owned = [pod for pod in observed.pods if controller_uid(pod) in uids]
    if any(not is_over(pod) and not is_leaving(pod) for pod in owned):
        return None
    last_pod = max((_created(pod) for pod in owned), default=0.0)
    found = [each for each in observed.refusals if each["involvedObject"]["uid"] in uids and _last(each) > last_pod]
    if not found:
        return None
    newest = max(found, key=_last)
    return Refusal(message=str(newest.get("message", "")), since=min(_first(each) for each in found))


def _created(obj: Raw) -> float:
    return unix(obj["metadata"].get("creationTimestamp")) or 0.0


def _first(event: Raw) -> float:
    return unix(event.get("firstTimestamp") or event.get("eventTime")) or _created(event)


def _last(event: Raw) -> float:
    series = event.get("series") or {}
    return unix(event.get("lastTimestamp") or series.get("lastObservedTime")) or _first(event)


def _pends(pod: Raw) -> bool:
    return not is_leaving(pod) and (pod.get("status") or {}).get("phase") == "Pending"


def _problem(pods: Sequence[Raw], now: float, timeout_s: float) -> Problem | None:
    """Why no pod of a step can run: an image, a Secret, a claim, no node, a kubelet that ends all of them; None as soon
    as one runs."""
    if any((pod.get("status") or {}).get("phase") == "Running" and not is_leaving(pod) for pod in pods):
        return None
    found = [problem for pod in pods if _pends(pod) and (problem := _of_pod(pod, now, timeout_s)) is not None]
    again = ended_again(tuple(_ended(pods)), now)
    return worst(found if again is None else [*found, again])


def _ended(pods: Iterable[Raw]) -> Iterator[Ended]:
    for pod in pods:
        if (pod.get("status") or {}).get("reason") and (why := ending(pod)):  # not by its own runner
            yield Ended(name=pod["metadata"]["name"], created=_created(pod), why=why)


def _of_pod(pod: Raw, now: float, timeout_s: float) -> Problem | None:
    if found := container_problem(pod, image_fields=IMAGE_FIELDS) or volume_problem(pod, now):
        return found
    scheduled = find((pod.get("status") or {}).get("conditions"), "PodScheduled")
    since = unix(scheduled.get("lastTransitionTime")) or now
    return scheduling_problem(pod) if now - since >= timeout_s else None
