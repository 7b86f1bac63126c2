"""One cycle of placement: gated pods one by one, each seeing the placements decided before it. Pure.

A cycle is lazy: every step is a few actions, and whoever takes them decides how long to go on. Namespaces take turns,
and within one the oldest pod goes first, so that 5,000 waiting pods of one tenant hold up nobody else's one.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

from batchwright_operator.api.invalid_spec import InvalidSpec
from batchwright_operator.kube.conditions import shorten
from batchwright_operator.placement import binding, receipts
from batchwright_operator.placement.candidate_pool import TURNED_AWAY, CandidatePool
from batchwright_operator.placement.cluster_state import ClusterState
from batchwright_operator.placement.demand import DeploymentInfo, demand_of, preferences_of
from batchwright_operator.placement.filter import AWAITING_BENCHMARK, describe_counts
from batchwright_operator.placement.placed_pods import PlacedPod
from batchwright_operator.placement.pools import Pools
from batchwright_operator.placement.receipts import PendingReason
from batchwright_operator.reconcile.decisions import Action, Decision, Event
from batchwright_operator.settings import Settings

REQUEUE_S: Final = 5.0
"""While pods wait: pods of others come and go without this reconciler being notified."""
TOLD_AGAIN_S: Final = 60.0
"""How often at most a pod is told anew why it waits, as long as the reason has the same name. Its text counts nodes, so
it is another one whenever a pod comes or goes anywhere: written each time, 5,000 waiting pods would be a storm."""
SETBACK_MAX_S: Final = 120.0
_TURN: Final = attrgetter("turn")
PLACED, NO_FIT, NO_BENCHMARK = "Placed", "NoFittingProcessor", "AwaitingBenchmark"
TAKEN_BACK, INVALID, NOT_WRITTEN = "PlacementTakenBack", "InvalidSpec", "PlacementRefused"


@dataclass(slots=True, kw_only=True)
class Setback:
    """The API server refused what was decided for a pod (a webhook, a policy), which is nobody else's fault: it is left
    alone until then. `is_told`: in an Event."""

    message: str
    times: int
    until: float
    is_told: bool


@dataclass(slots=True)
class Memory:
    """What outlives a cycle: pools of candidates, since when pods are known, what they were told, who failed."""

    pools: Pools = field(default_factory=Pools)
    first_seen: dict[str, float] = field(default_factory=dict)
    """Pod uid -> when it was first seen to be without a place."""
    told: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Pod uid -> what it was told, without numbers, and when."""
    setbacks: dict[str, Setback] = field(default_factory=dict)
    """Pod uid -> why it is left alone."""

    def refused(self, uid: str, message: str, now: float) -> None:
        """The API server refused what was decided for this pod."""
        before = self.setbacks.get(uid)
        times = 1 if before is None else before.times + 1
        is_told = before is not None and before.message == message
        until = now + min(SETBACK_MAX_S, 2.0**times)
        self.setbacks[uid] = Setback(message=message, times=times, until=until, is_told=is_told)

    def forget_others(self, uids: set[str]) -> None:
        """Keeps these pods only."""
        for table in (self.first_seen, self.told, self.setbacks):
            if len(table) > len(uids):
                for uid in table.keys() - uids:
                    del table[uid]


class Cycle:
    """Iterate to decide; `outcome` tells the rest. What has been iterated over is expected to be carried out."""

    def __init__(self, state: ClusterState, memory: Memory, settings: Settings, now: float) -> None:
        self._state, self._memory, self._settings, self._now = state, memory, settings, now
        self._groups: dict[tuple[str, ...], CandidatePool | PendingReason] = {}
        """What pods of one revision and kind share: where they may go, or why nowhere."""
        self._messages: dict[tuple[str, str, str], str] = {}
        """(namespace, deployment, event reason) -> the sentence about the first pod."""
        self._pods_told_of: Counter[tuple[str, str, str]] = Counter()
        self._left = -1
        """Pods that were not looked at yet; -1: the state is still to be brought up to date."""
        self._pin: binding.Pin = "Nomination"
        self._requeue_after_s: float | None = None
        self._ages_s: list[float] = []
        self._latencies_s: list[float] = []

    def __iter__(self) -> Iterator[tuple[Action, ...]]:
        for _ in self._state.catching_up():
            yield ()
        while self._state.new:
            self._memory.first_seen.setdefault(self._state.new.pop().uid, self._now)
        self._left = self._state.waiting
        self._pin = binding.pin_for(self._settings.placement_pin, self._left)
        for pod in list(self._state.refused.values()):
            if self._is_left_alone(pod):
                continue
            self._record_event(pod, TAKEN_BACK, f"{pod.name} does not fit on {pod.node}: {pod.unschedulable}")
            self._state.assume(pod, "")
            yield (binding.undo(pod),)
        for pod in self._in_turns():
            actions: tuple[Action, ...] = ()
            if not self._is_left_alone(pod):
                if pod.group not in self._groups and not pod.claims_devices:
                    yield from self._make_group(pod)
                actions = self._place(pod)
            self._left -= 1
            yield actions

    def outcome(self) -> Decision:
        """Events, metrics and the next cycle; without the actions."""
        if self._left == 0:
            self._memory.forget_others(self._state.uids_to_decide_on())
        return Decision(
            events=tuple(self._events()),
            requeue_after_s=0.0 if self._left else self._requeue_after_s,
            metrics={"placement_waiting_pods": float(self._state.waiting)},
            observations={
                "batchwright_placement_gate_age_seconds": tuple(self._ages_s),
                "batchwright_placement_latency_seconds": tuple(self._latencies_s),
            },
        )

    # --- one pod

    def _in_turns(self) -> Iterator[PlacedPod]:
        """One pod of each namespace, then the next of each."""
        queues = deque(deque(sorted(pods.values(), key=_TURN)) for _, pods in sorted(self._state.gated.items()))
        while queues:
            queue = queues.popleft()
            yield queue.popleft()
            if queue:
                queues.append(queue)

    def _place(self, pod: PlacedPod) -> tuple[Action, ...]:
        if pod.claims_devices:
            return self._leave_to_scheduler(pod)
        group = self._groups.get(pod.group)
        if group is None:
            return ()  # its owner has been deleted, and garbage collection will delete the pod
        if isinstance(group, PendingReason):
            return self._keep_pending(pod, group)
        group.catch_up(self._now)
        pick = group.pick(pod)
        if pick is None:
            return self._handle_no_fit(pod, group)
        receipt = receipts.of(pick, left_out=group.left_out(pod), now=self._now)
        processor = pick.best.candidate.processor
        table = processor.load_table if processor is not None else ()
        self._record_event(pod, PLACED, f"{pod.name}: {receipt.reason}")
        self._observe_ages(pod)
        self._state.assume(pod, receipt.node)
        return (binding.bind(pod, receipt, pick.best.candidate.node, table, pin=self._pin),)

    def _leave_to_scheduler(self, pod: PlacedPod) -> tuple[Action, ...]:
        """Which devices are free for a claim only kube-scheduler knows: a node picked here might have none."""
        self._observe_ages(pod)
        return self._release(pod, PLACED, "it claims its devices (deviceClaim)")

    def _release(self, pod: PlacedPod, reason: str, why: str) -> tuple[Action, ...]:
        """To the scheduler, without a node."""
        receipt = receipts.released(pod.kind, why, now=self._now)
        self._record_event(pod, reason, f"{pod.name}: {receipt.reason}")
        self._state.assume(pod, "")
        return (binding.release(pod, receipt),)

    def _is_left_alone(self, pod: PlacedPod) -> bool:
        setback = self._memory.setbacks.get(pod.uid)
        if setback is None:
            return False
        if not setback.is_told:
            setback.is_told = True
            self._record_event(pod, NOT_WRITTEN, f"{pod.name}: {setback.message}")
        if (left_s := setback.until - self._now) > 0:
            self._requeue(left_s)
        return left_s > 0

    def _observe_ages(self, pod: PlacedPod) -> None:
        self._ages_s.append(max(0.0, self._now - pod.created_at))
        self._latencies_s.append(max(0.0, self._now - self._memory.first_seen.get(pod.uid, self._now)))

    def _handle_no_fit(self, pod: PlacedPod, pool: CandidatePool) -> tuple[Action, ...]:
        """Waits for a node or its benchmark, but not longer than the settings say."""
        reasons = pool.reasons(pod)
        message = describe_counts(reasons, len(self._state.nodes))
        # Only where no measured node has room. A node that is never measured (its profile is somebody else's, say)
        # holds nobody for longer than a node that is never idle.
        is_awaiting = AWAITING_BENCHMARK in reasons
        reason = NO_BENCHMARK if is_awaiting else NO_FIT
        limit_s = self._settings.benchmark_idle_wait_seconds if is_awaiting else self._settings.unfit_seconds
        left_s = limit_s - (self._now - pod.created_at)
        if TURNED_AWAY in reasons:
            # The scheduler would send it to such a node at once, as that has room: so it is tried again first.
            left_s = max(left_s, min(self._state.resting(pod, self._now).values(), default=0.0) - self._now + 1.0)
        if left_s > 0:
            self._requeue(left_s)
            return self._keep_pending(pod, PendingReason(reason=reason, message=message))
        # A cluster autoscaler does not see a gated pod: only without its gate can a node be added for it.
        return self._release(pod, reason, message)

    def _keep_pending(self, pod: PlacedPod, why: PendingReason) -> tuple[Action, ...]:
        self._requeue(REQUEUE_S)
        if pod.waiting == why:  # written and recorded once, not in every cycle
            return ()
        if pod.waiting is not None and pod.waiting.reason == why.reason:
            kind = _without_numbers(why.message)
            told, at = self._memory.told.setdefault(pod.uid, (_without_numbers(pod.waiting.message), self._now))
            if told == kind or self._now - at < TOLD_AGAIN_S:
                return ()
        self._memory.told[pod.uid] = (_without_numbers(why.message), self._now)
        self._record_event(pod, why.reason, why.message)
        self._state.assume(pod, "")
        return (binding.annotate_pending(pod, why),)

    def _requeue(self, after_s: float) -> None:
        before = self._requeue_after_s
        self._requeue_after_s = after_s if before is None else min(before, after_s)

    # --- what pods of one revision share

    def _make_group(self, pod: PlacedPod) -> Iterator[tuple[Action, ...]]:
        """None is made where the deployment has been deleted."""
        info = self._state.deployment(pod.owner)
        if info is None:
            return
        group = self._group_of(pod, info)
        if isinstance(group, CandidatePool):
            # Of a cycle that ends meanwhile the pool is kept, and the next one goes on where this one was.
            for _ in group.building:
                yield ()
        self._groups[pod.group] = group

    def _group_of(self, pod: PlacedPod, info: DeploymentInfo | InvalidSpec) -> CandidatePool | PendingReason:
        if isinstance(info, InvalidSpec):
            return PendingReason(reason=INVALID, message=str(info))
        try:
            preferences = preferences_of(info)
        except ValueError as error:
            return PendingReason(reason=INVALID, message=str(error))
        demand = demand_of(pod, info, self._state.claims)
        if demand.impossible:
            return PendingReason(reason=NO_FIT, message=demand.impossible)
        return self._memory.pools.of(self._state, pod, demand, preferences, self._now)

    # --- events

    def _record_event(self, pod: PlacedPod, reason: str, message: str) -> None:
        at = (pod.namespace, pod.deployment, reason)
        self._messages.setdefault(at, message)
        self._pods_told_of[at] += 1

    def _events(self) -> Iterator[Event]:
        """One Event per deployment and reason: a burst of a thousand pods must not write a thousand Events."""
        for (namespace, name, reason), message in self._messages.items():
            info = self._state.deployment((namespace, name))
            if info is None or isinstance(info, InvalidSpec):
                continue
            others = self._pods_told_of[namespace, name, reason] - 1
            more = f" (and {others} more)" if others else ""
            is_normal = reason in (PLACED, NO_BENCHMARK)
            yield Event(regarding=info.deployment.raw, reason=reason, message=shorten(message + more),
                        type="Normal" if is_normal else "Warning", action="Place")  # fmt: skip


def _without_numbers(message: str) -> str:
    return re.sub(r"\d+", "#", message)
