"""Plan of one node: its AcceleratorProfile, and the benchmarks of its processors (method A1). Pure.

A1 as a state machine that is read from the cluster every time: a processor is settled when `benchmarkedAs` in its
profile equals the digest of what it is now; otherwise its Job is read, or made once the processor is idle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from batchwright_operator.kube.conditions import find
from batchwright_operator.kube.metadata import annotation, is_leaving
from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, JOB, Raw
from batchwright_operator.kube.times import unix
from batchwright_operator.processors import benchmark_jobs, drift, retries, status
from batchwright_operator.processors.benchmark_outcome import (
    BenchmarkFailure,
    Lost,
    Running,
    ended_at,
    is_finished,
    outcome,
)
from batchwright_operator.processors.node_class import class_of, estimated, siblings
from batchwright_operator.processors.nodes import node_info
from batchwright_operator.processors.processor import (
    AWAITING,
    BENCHMARKED,
    KEPT_AWAY,
    NO_IMAGE,
    NOT_IDLE,
    NOT_STARTED,
    OPTED_OUT,
    RUNNING,
    Processor,
    best_row,
    decimal,
    kinds_on,
    measured,
    opted_out,
    processors_of,
    slots_on,
    slots_per_device,
)
from batchwright_operator.processors.start import NodeUse, kept_away, obstacle
from batchwright_operator.reconcile.decisions import Action, Apply, Create, Decision, Delete, Event, StatusWrite
from batchwright_operator.settings import Settings
from batchwright_worker.api.accelerators import SHARED
from batchwright_worker.api.messages import BenchmarkResult
from batchwright_worker.api.names import API_VERSION, KIND_CPU

REQUEUE_S: Final = 5.0
"""While a processor waits to become idle: its samples are no watched objects."""
VERIFY_S: Final = 60.0
"""The same for one that has numbers already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedNode:
    """All facts about one node."""

    node: Raw
    profile: Raw | None
    jobs: Mapping[str, Raw] = field(default_factory=dict)
    """Kind -> benchmark Job of this node."""
    pods: Mapping[str, Sequence[Raw]] = field(default_factory=dict)
    """Kind -> pods of that Job."""
    use: NodeUse = field(default_factory=NodeUse)
    """What may keep a benchmark waiting; its `runs_here` and `class_is_measured_elsewhere` are filled in here."""
    classes_elsewhere: frozenset[str] = frozenset()
    """Classes whose first measurement runs on another node."""
    siblings: Mapping[str, Mapping[str, Processor]] = field(default_factory=dict)
    """Node -> kind -> processor of all nodes; only where this one has something that is not measured."""


def decide(observed: ObservedNode, settings: Settings, now: float) -> Decision:
    """The profile object, then per processor what its state and its Job ask for."""
    return _NodePass(observed, settings, now).run()


def needs(node: Raw, profile: Raw | None, known: Mapping[str, Processor], settings: Settings) -> tuple[bool, bool]:
    """Is there something to measure on the node, something to estimate? What that takes is observed only then."""
    if profile is None:
        return False, False
    each = [(kind, known.get(kind, Processor(kind=kind))) for kind in kinds_on(node)]
    to_measure = not opted_out(node) and any(
        found.failures or found.benchmarked_as != benchmark_jobs.digest(node, kind, profile, settings)
        for kind, found in each
    )
    return to_measure, any(found.capacity is None or found.estimated_from for _, found in each)


class _NodePass:
    """State of one decision about one node."""

    def __init__(self, observed: ObservedNode, settings: Settings, now: float) -> None:
        self.observed, self.settings, self.now = observed, settings, now
        self.info = node_info(observed.node)
        self.actions: list[Action] = []
        self.events: list[Event] = []
        self.requeue_after_s: float | None = None
        self.counts: dict[str, int] = {}
        self.benchmark_runs = any(not is_finished(each) for each in observed.jobs.values())

    def run(self) -> Decision:
        profile = self.observed.profile
        match _owner_of(profile, self.observed.node):
            case "nobody":
                self.actions.append(Apply(resource=ACCELERATOR_PROFILE, body=_profile(self.observed.node)))
            case "another node":
                # Of a node that had this name: its numbers say nothing of the machine that has it now.
                assert profile is not None
                return Decision(actions=(Delete.of(ACCELERATOR_PROFILE, profile),), requeue_after_s=REQUEUE_S)
            case "somebody else":
                return Decision()
        if profile is None:  # its creation leads to the next pass, which has an object to write a status to
            return Decision(actions=tuple(self.actions))
        known = processors_of(profile)
        kinds = kinds_on(self.observed.node)
        found = [self._with_slots(self._processor(kind, known.get(kind, Processor(kind=kind)))) for kind in kinds]
        view = status.View(
            profile=profile,
            processors=found,
            before={kind: None if each.estimated_from else each.capacity for kind, each in known.items()},
            samples=self.observed.use.samples,
            now=self.now,
            stale_s=self.settings.sample_stale_seconds,
            obstacle=self._no_pods(),
        )
        if (turns_stale_s := status.next_change_s(view)) is not None:
            self._requeue(turns_stale_s)
        return Decision(
            actions=tuple(self.actions),
            status=StatusWrite(resource=ACCELERATOR_PROFILE, regarding=profile, status=status.render(view)),
            events=tuple(self.events),
            requeue_after_s=self.requeue_after_s,
            counts=self.counts,
        )

    def _no_pods(self) -> str:
        if not self.info.ready:
            return "NodeNotReady"
        return "NodeCordoned" if self.info.cordoned else ""

    def _with_slots(self, processor: Processor) -> Processor:
        """With what the node says of it now: devices come and go (a broken one, another partitioning) at any time."""
        labelled = slots_per_device(self.observed.node, processor.kind)
        return replace(
            processor,
            slots=slots_on(self.observed.node, processor.kind),
            slots_per_device=processor.slots_per_device if labelled is None else labelled,
        )

    def _devices_to_measure(self, kind: str, known: Processor) -> int:
        """All of them at the first measurement, for which pods wait anyway; later ones leave the others to pods."""
        shares = slots_per_device(self.observed.node, kind) or 1
        if known.capacity is not None or shares > 1 or kind.endswith(SHARED):
            return 1
        free = slots_on(self.observed.node, kind) if not self.observed.use.requested.get(kind) else 1
        return max(1, min(free, benchmark_jobs.ALL_DEVICES))

    def _processor(self, kind: str, written: Processor) -> Processor:
        """The profile's entry of this processor; what has to be made or deleted for it becomes an action."""
        digest = benchmark_jobs.digest(self.observed.node, kind, self.observed.profile, self.settings)
        known = replace(written, node_class=class_of(self.observed.node, kind, self.settings))
        if known.benchmarked_as != digest and known.failures:
            known = replace(known, failures=0, retry_time="")  # of what it was before
        if known.benchmarked_as == digest and not known.failures:
            return self._watched(kind, known, digest)
        known = estimated(known, siblings(known.node_class, self.observed.siblings))
        job = self.observed.jobs.get(kind)
        if self.info.opted_out:
            return replace(known, reason=OPTED_OUT, message="the node's label opts out of benchmarks")
        if why := kept_away(self.info, kind, self.settings):
            if job is not None and not is_finished(job):
                self._delete(job)
            return known if known.estimated_from else replace(known, reason=KEPT_AWAY, message=why)
        return self._measure(kind, known, digest, job)

    def _watched(self, kind: str, known: Processor, digest: str) -> Processor:
        """A measured processor: what the drift sentinel has to do."""
        job, best = self.observed.jobs.get(kind), best_row(known)
        check = job if job is not None and _measures(job) == benchmark_jobs.check_digest(digest) else None
        is_let = not self.info.opted_out and not kept_away(self.info, kind, self.settings)
        every_s = self.settings.spot_check_seconds
        if every_s <= 0 or best is None or not is_let or known.estimated_from:
            if check is not None:
                self._delete(check)
            return known
        if check is not None:
            return self._read_check(kind, known, check, every_s)
        left_s = drift.due_in_s(known.spot_checks, best.images_per_second, known.benchmarked_time, every_s, self.now)
        if left_s > 0:
            self._requeue(left_s)
        elif job is not None:
            self._delete(job)  # the last benchmark's, which has the name
        elif obstacle(
            self.info, kind, replace(self.observed.use, runs_here=self.benchmark_runs), self.settings, self.now
        ):
            self._requeue(VERIFY_S)
        else:
            self.benchmark_runs = True
            body = benchmark_jobs.spot_check(self.observed.node, kind, digest, best.batch_size, self.settings)
            self.actions.append(Create(resource=JOB, body=body))
        return known

    def _read_check(self, kind: str, known: Processor, job: Raw, every_s: float) -> Processor:
        pods = self.observed.pods.get(kind, ())
        match outcome(job, pods):
            case BenchmarkResult() as result:
                self._delete(job)
                at, rate = ended_at(job, pods, self.now), result.capacity_images_per_second
                return self._with_check(kind, known, drift.SpotCheck(time=at, images_per_second=rate))
            case BenchmarkFailure() | Lost():
                # It says nothing of the processor. The Job stays until the next one is due, so that this is no loop.
                made = unix(job["metadata"].get("creationTimestamp")) or 0.0
                if (left_s := every_s - (self.now - made)) > 0:
                    self._requeue(left_s)
                else:
                    self._delete(job)
        return known

    def _with_check(self, kind: str, known: Processor, check: drift.SpotCheck) -> Processor:
        """With one check more; where they fall, what was measured holds no longer."""
        checks, best = drift.with_check(known.spot_checks, check), best_row(known)
        watched = replace(known, spot_checks=checks)
        measured_rate = best.images_per_second if best is not None else None
        if not drift.has_fallen(checks, measured_rate):
            return watched
        rates = ", ".join(decimal(each.images_per_second) for each in checks)
        self._record_event(
            "DriftSuspected", f"{kind}: checks fall ({rates} images/s); it is measured anew", warning=True
        )
        return self._awaiting(replace(watched, benchmarked_as=""), "its checks fall")

    def _measure(self, kind: str, known: Processor, digest: str, job: Raw | None) -> Processor:
        if known.retry_time and not self._is_tried_again(known, job):
            return known
        if job is None:
            return self._start_or_wait(kind, known, digest)
        # Also one of the machine that had this node's name before: hardware of the same product has the same digest.
        if _measures(job) != digest or not _is_of(job, self.observed.node):
            self._delete(job)
            return self._awaiting(known, "an older benchmark is cleared away")
        return self._read_job(kind, known, digest, job)

    def _is_tried_again(self, known: Processor, job: Raw | None) -> bool:
        """After a failure: when its time has come and its Job is cleared away."""
        left_s = retries.due_in_s(known, self.now)
        if left_s > 0:
            self._requeue(left_s)
            return False
        if job is not None and (is_leaving(job) or is_finished(job)) and retries.is_of_an_earlier_try(job, known):
            self._delete(job)
            return False
        return True

    def _read_job(self, kind: str, known: Processor, digest: str, job: Raw) -> Processor:
        pods = self.observed.pods.get(kind, ())
        match outcome(job, pods):
            case Running() as running:
                return self._running(kind, known, digest, job, running)
            case Lost():
                self._delete(job)
                return self._awaiting(known, "the benchmark's result was lost; it runs again")
            case BenchmarkFailure() as failure:
                return self._failed(kind, known, digest, failure)
            case BenchmarkResult() as result:
                before = "" if known.capacity is None else f" (before: {decimal(known.capacity)})"
                rate = decimal(result.capacity_images_per_second)
                self._record_event(BENCHMARKED, f"{kind}: {rate} images/s{before}")
                self._count(kind, BENCHMARKED)
                return replace(
                    _measured(known, result, _devices_asked_for(job, kind)),
                    runtime_image=benchmark_jobs.image_of(kind, self.settings),
                    benchmarked_time=ended_at(job, pods, self.now),
                    benchmarked_as=digest,
                )

    def _running(self, kind: str, known: Processor, digest: str, job: Raw, running: Running) -> Processor:
        """A benchmark that does not get to run gives its turn to another node."""
        if running.started:
            return replace(known, reason=RUNNING, message="the benchmark runs", retry_time="")
        waits_for_node = not running.has_node or running.no_image
        settings = self.settings
        limit_s = settings.benchmark_schedule_seconds if waits_for_node else settings.benchmark_start_seconds
        made = unix(job["metadata"].get("creationTimestamp"))
        left_s = limit_s - (self.now - made) if made is not None else limit_s
        if left_s > 0:
            self._requeue(left_s)
            return replace(known, reason=RUNNING, message=running.problem or "the benchmark starts", retry_time="")
        self._delete(job)
        reason = NO_IMAGE if running.no_image else NOT_STARTED
        message = running.problem or "the benchmark's pod did not get to run; the events of its Job say why"
        return self._failed(kind, known, digest, BenchmarkFailure(reason=reason, message=message))

    def _failed(self, kind: str, known: Processor, digest: str, failure: BenchmarkFailure) -> Processor:
        self._record_event(failure.reason, f"{kind}: {failure.message}", warning=True)
        self._count(kind, failure.reason)
        after = retries.failed(known, failure, digest, self.now, self.settings.benchmark_retry_seconds)
        self._requeue(retries.due_in_s(after, self.now))
        return after

    def _start_or_wait(self, kind: str, known: Processor, digest: str) -> Processor:
        """No Job yet: makes one if the processor is idle, waits otherwise, but not forever."""
        first = known.capacity is None
        use = replace(
            self.observed.use,
            runs_here=self.benchmark_runs,
            class_is_measured_elsewhere=first and known.node_class in self.observed.classes_elsewhere,
            # To verify an estimate is never urgent: half of the places are left to what is not known at all.
            elsewhere=self.observed.use.elsewhere * (2 if known.estimated_from else 1),
        )
        why = obstacle(self.info, kind, use, self.settings, self.now)
        if why:
            if self.info.ready:  # that it becomes ready is an event of its own
                self._requeue(REQUEUE_S if first else VERIFY_S)
            return self._awaiting(known, why)
        self.benchmark_runs = True  # for the node's other processors: two at once would slow each other down
        job = benchmark_jobs.job(
            self.observed.node, kind, digest, self.settings,
            devices=self._devices_to_measure(kind, known), first_of=known.node_class if first else "",
        )  # fmt: skip
        self.actions.append(Create(resource=JOB, body=job))
        image = benchmark_jobs.image_of(kind, self.settings)
        self._record_event("BenchmarkStarted", f"{kind}: measuring with {image}")
        return replace(known, reason=RUNNING, message="the benchmark starts", retry_time="")

    def _awaiting(self, known: Processor, why: str) -> Processor:
        """The entry while it waits; after the longest wait for a first benchmark, one that pods may be placed on."""
        if known.failures:
            return replace(known, message=f"to be tried again: {why}") if known.reason == RUNNING else known
        if known.estimated_from:
            return known
        if known.capacity is not None:
            return replace(known, reason=AWAITING, message=f"to be measured again: {why}")
        benchmarked = find((self.observed.profile or {}).get("status", {}).get("conditions"), "Benchmarked")
        since = unix(benchmarked.get("lastTransitionTime"))
        waited_s = self.now - since if since is not None else 0.0
        # NeverIdle is kept: it turns the condition, whose transition time no longer is the beginning of the wait then.
        if known.reason == NOT_IDLE or waited_s > self.settings.benchmark_idle_wait_seconds:
            message = f"never idle for a benchmark ({why}); placeable by utilization alone meanwhile"
            return replace(known, reason=NOT_IDLE, message=message)
        return replace(known, reason=AWAITING, message=why)

    def _delete(self, job: Raw) -> None:
        self._requeue(REQUEUE_S)
        if not is_leaving(job):
            self.actions.append(Delete.of(JOB, job))

    def _count(self, kind: str, outcome: str) -> None:
        at = f'batchwright_benchmarks_total{{kind="{kind}",outcome="{outcome}"}}'
        self.counts[at] = self.counts.get(at, 0) + 1

    def _record_event(self, reason: str, message: str, *, warning: bool = False) -> None:
        assert self.observed.profile is not None
        self.events.append(
            Event(
                regarding=self.observed.profile,
                reason=reason,
                message=message,
                type="Warning" if warning else "Normal",
                action="Benchmark",
            )
        )

    def _requeue(self, after_s: float) -> None:
        self.requeue_after_s = after_s if self.requeue_after_s is None else min(self.requeue_after_s, after_s)


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


def _measures(job: Raw) -> str:
    return annotation(job, benchmark_jobs.ANNOTATION_DIGEST)


def _devices_asked_for(job: Raw, kind: str) -> int:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return int((container["resources"].get("limits") or {}).get(kind, 1)) if kind != KIND_CPU else 1


def _is_of(job: Raw, node: Raw) -> bool:
    owners = job["metadata"].get("ownerReferences") or ()
    return any(each.get("uid") == node["metadata"]["uid"] for each in owners)


def _profile(node: Raw) -> Raw:
    """The object without its status; garbage collection deletes it with its node."""
    metadata = node["metadata"]
    owner = {"apiVersion": "v1", "kind": "Node", "name": metadata["name"], "uid": metadata["uid"]}
    return {
        "apiVersion": API_VERSION,
        "kind": ACCELERATOR_PROFILE.kind,
        "metadata": {"name": metadata["name"], "ownerReferences": [owner]},
    }


def _owner_of(profile: Raw | None, node: Raw) -> Literal["this node", "another node", "nobody", "somebody else"]:
    owners = (profile["metadata"].get("ownerReferences") or ()) if profile else ()
    if not owners:
        return "nobody"
    if any(each.get("uid") == node["metadata"]["uid"] for each in owners):
        return "this node"
    return "another node" if all(each.get("kind") == "Node" for each in owners) else "somebody else"
