"""The benchmark of one processor (method A1), from its Job to its numbers in the profile. Pure.

A1 as a state machine that is read from the cluster every time: a processor is settled when `benchmarkedAs` in its
profile equals the digest of what it is now; otherwise its Job is read, or made once the processor is idle.
"""

from __future__ import annotations

from dataclasses import replace

from batchwright_operator.kube.conditions import find
from batchwright_operator.kube.metadata import annotation, is_leaving
from batchwright_operator.kube.objects import JOB, Raw
from batchwright_operator.kube.times import unix
from batchwright_operator.processors import benchmark_jobs, retries
from batchwright_operator.processors.benchmark_outcome import (
    BenchmarkFailure,
    Lost,
    Running,
    ended_at,
    is_finished,
    outcome,
)
from batchwright_operator.processors.node_pass import REQUEUE_S, VERIFY_S, NodePass
from batchwright_operator.processors.processor import (
    AWAITING,
    BENCHMARKED,
    NO_IMAGE,
    NOT_IDLE,
    NOT_STARTED,
    RUNNING,
    Processor,
    decimal,
    measured,
    slots_on,
    slots_per_device,
)
from batchwright_operator.processors.start import obstacle
from batchwright_operator.reconcile.decisions import Create
from batchwright_worker.api.accelerators import SHARED
from batchwright_worker.api.messages import BenchmarkResult
from batchwright_worker.api.names import KIND_CPU


def measure(turn: NodePass, kind: str, known: Processor, digest: str, job: Raw | None) -> Processor:
    """The profile's entry of a processor that is not settled. `job`: its Job, `digest`: of what it is now."""
    if known.retry_time and not _is_tried_again(turn, known, job):
        return known
    if job is None:
        return _start_or_wait(turn, kind, known, digest)
    # Also one of the machine that had this node's name before: hardware of the same product has the same digest.
    if measures(job) != digest or not _is_of(job, turn.observed.node):
        turn.delete(job)
        return awaiting(turn, known, "an older benchmark is cleared away")
    return _read_job(turn, kind, known, digest, job)


def _is_tried_again(turn: NodePass, known: Processor, job: Raw | None) -> bool:
    """After a failure: when its time has come and its Job is cleared away."""
    left_s = retries.due_in_s(known, turn.now)
    if left_s > 0:
        turn.requeue(left_s)
        return False
    if job is not None and (is_leaving(job) or is_finished(job)) and retries.is_of_an_earlier_try(job, known):
        turn.delete(job)
        return False
    return True


def _read_job(turn: NodePass, kind: str, known: Processor, digest: str, job: Raw) -> Processor:
    pods = turn.observed.pods.get(kind, ())
    match outcome(job, pods):
        case Running() as running:
            return _running(turn, kind, known, digest, job, running)
        case Lost():
            turn.delete(job)
            return awaiting(turn, known, "the benchmark's result was lost; it runs again")
        case BenchmarkFailure() as failure:
            return _failed(turn, kind, known, digest, failure)
        case BenchmarkResult() as result:
            before = "" if known.capacity is None else f" (before: {decimal(known.capacity)})"
            rate = decimal(result.capacity_images_per_second)
            turn.record_event(BENCHMARKED, f"{kind}: {rate} images/s{before}")
            turn.count(kind, BENCHMARKED)
            return replace(
                _measured(known, result, _devices_asked_for(job, kind)),
                runtime_image=benchmark_jobs.image_of(kind, turn.settings),
                benchmarked_time=ended_at(job, pods, turn.now),
                benchmarked_as=digest,
            )


def _running(turn: NodePass, kind: str, known: Processor, digest: str, job: Raw, running: Running) -> Processor:
    """A benchmark that does not get to run gives its turn to another node."""
    if running.started:
        return replace(known, reason=RUNNING, message="the benchmark runs", retry_time="")
    waits_for_node = not running.has_node or running.no_image
    settings = turn.settings
    limit_s = settings.benchmark_schedule_seconds if waits_for_node else settings.benchmark_start_seconds
    made = unix(job["metadata"].get("creationTimestamp"))
    left_s = limit_s - (turn.now - made) if made is not None else limit_s
    if left_s > 0:
        turn.requeue(left_s)
        return replace(known, reason=RUNNING, message=running.problem or "the benchmark starts", retry_time="")
    turn.delete(job)
    reason = NO_IMAGE if running.no_image else NOT_STARTED
    message = running.problem or "the benchmark's pod did not get to run; the events of its Job say why"
    return _failed(turn, kind, known, digest, BenchmarkFailure(reason=reason, message=message))


def _failed(turn: NodePass, kind: str, known: Processor, digest: str, failure: BenchmarkFailure) -> Processor:
    turn.record_event(failure.reason, f"{kind}: {failure.message}", warning=True)
    turn.count(kind, failure.reason)
    after = retries.failed(known, failure, digest, turn.now, turn.settings.benchmark_retry_seconds)
    turn.requeue(retries.due_in_s(after, turn.now))
    return after


def _start_or_wait(turn: NodePass, kind: str, known: Processor, digest: str) -> Processor:
    """No Job yet: makes one if the processor is idle, waits otherwise, but not forever."""
    first = known.capacity is None
    use = replace(
        turn.observed.use,
        runs_here=turn.benchmark_runs,
        class_is_measured_elsewhere=first and known.node_class in turn.observed.classes_elsewhere,
        # To verify an estimate is never urgent: half of the places are left to what is not known at all.
        elsewhere=turn.observed.use.elsewhere * (2 if known.estimated_from else 1),
    )
    why = obstacle(turn.info, kind, use, turn.settings, turn.now)
    if why:
        if turn.info.ready:  # that it becomes ready is an event of its own
            turn.requeue(REQUEUE_S if first else VERIFY_S)
        return awaiting(turn, known, why)
    turn.benchmark_runs = True
    job = benchmark_jobs.job(
        turn.observed.node, kind, digest, turn.settings,
        devices=_devices_to_measure(turn, kind, known), first_of=known.node_class if first else "",
    )  # fmt: skip
    turn.actions.append(Create(resource=JOB, body=job))
    image = benchmark_jobs.image_of(kind, turn.settings)
    turn.record_event("BenchmarkStarted", f"{kind}: measuring with {image}")
    return replace(known, reason=RUNNING, message="the benchmark starts", retry_time="")


def awaiting(turn: NodePass, known: Processor, why: str) -> Processor:
    """The entry while it waits; after the longest wait for a first benchmark, one that pods may be placed on."""
    if known.failures:
        return replace(known, message=f"to be tried again: {why}") if known.reason == RUNNING else known
    if known.estimated_from:
        return known
    if known.capacity is not None:
        return replace(known, reason=AWAITING, message=f"to be measured again: {why}")
    benchmarked = find((turn.observed.profile or {}).get("status", {}).get("conditions"), "Benchmarked")
    since = unix(benchmarked.get("lastTransitionTime"))
    waited_s = turn.now - since if since is not None else 0.0
    # NeverIdle is kept: it turns the condition, whose transition time no longer is the beginning of the wait then.
    if known.reason == NOT_IDLE or waited_s > turn.settings.benchmark_idle_wait_seconds:
        message = f"never idle for a benchmark ({why}); placeable by utilization alone meanwhile"
        return replace(known, reason=NOT_IDLE, message=message)
    return replace(known, reason=AWAITING, message=why)


def _devices_to_measure(turn: NodePass, kind: str, known: Processor) -> int:
    """All of them at the first measurement, for which pods wait anyway; later ones leave the others to pods."""
    shares = slots_per_device(turn.observed.node, kind) or 1
    if known.capacity is not None or shares > 1 or kind.endswith(SHARED):
        return 1
    free = slots_on(turn.observed.node, kind) if not turn.observed.use.requested.get(kind) else 1
    return max(1, min(free, benchmark_jobs.ALL_DEVICES))


def _measured(known: Processor, result: BenchmarkResult, asked_for: int) -> Processor:
    """The processor by its newest measurement. What only a measurement of all devices tells is kept from the last one
    that was: how they scale, and whether several slots are one device."""
    found = measured(known.kind, result)
    distinct = len(found.devices)
    shares = asked_for // distinct if distinct and asked_for % distinct == 0 else 1
    return replace(
        found,
        node_class=known.node_class,
        scaling=known.scaling if found.scaling is None else found.scaling,
        slots_per_device=shares if asked_for > 1 else known.slots_per_device,
        devices=found.devices if asked_for > 1 or len(known.devices) < 2 else known.devices,
    )


def measures(job: Raw) -> str:
    """The digest of what the Job measures."""
    return annotation(job, benchmark_jobs.ANNOTATION_DIGEST)


def _devices_asked_for(job: Raw, kind: str) -> int:
    if kind == KIND_CPU:
        return 1
    containers = job["spec"]["template"]["spec"]["containers"]
    own = next(each for each in containers if each["name"] == benchmark_jobs.CONTAINER)  # a webhook may add others
    return int((own["resources"].get("limits") or {}).get(kind, 1))


def _is_of(job: Raw, node: Raw) -> bool:
    owners = job["metadata"].get("ownerReferences") or ()
    return any(each.get("uid") == node["metadata"]["uid"] for each in owners)
