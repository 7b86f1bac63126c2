"""One cycle of placement: all gated pods, oldest first, each seeing the placements decided before it. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from batchwright_operator.api.invalid_spec import InvalidSpec
from batchwright_operator.kube.conditions import shorten
from batchwright_operator.placement import binding, receipts
from batchwright_operator.placement.candidate_heap import CandidateHeap
from batchwright_operator.placement.demand import Demand, PlacementPreferences, demand_of, preferences_of
from batchwright_operator.placement.filter import (
    NodeRejection,
    counted_reasons,
    describe_rejections,
    insufficient,
    rejection_of,
    some_await_benchmark,
)
from batchwright_operator.placement.placed_pods import PlacedPod
from batchwright_operator.placement.receipts import PendingReason
from batchwright_operator.placement.scoring import Candidate, ScoreContext
from batchwright_operator.placement.snapshot import ObservedCluster
from batchwright_operator.placement.usage import Usage
from batchwright_operator.processors.nodes import NodeInfo
from batchwright_operator.reconcile.decisions import Action, Decision, Event
from batchwright_operator.reconcile.live_state import Sample
from batchwright_operator.settings import Settings

ACTIONS_PER_CYCLE = 500
"""Then the cycle ends and the next one follows at once, from newer facts."""
REQUEUE_S = 5.0
"""While pods wait: pods of others come and go without this reconciler being notified."""
PLACED, NO_FIT, NO_BENCHMARK = "Placed", "NoFittingProcessor", "AwaitingBenchmark"
TAKEN_BACK, INVALID = "PlacementTakenBack", "InvalidSpec"


@dataclass(slots=True, kw_only=True)
class _RevisionGroup:
    """What pods of one revision and kind share during a cycle."""

    demand: Demand
    rejections: dict[str, NodeRejection]
    """Nodes that were filtered out when the cycle came to the first pod of the group."""
    heap: CandidateHeap
    left_out: str
    """The rejections, counted."""


def decide(observed: ObservedCluster, settings: Settings, now: float) -> Decision:
    """Where every gated pod goes, why the others wait, and which refused pods are deleted."""
    return _Cycle(observed, settings, now).run()


class _Cycle:
    """State of one cycle; every decision changes it for the next pod."""

    def __init__(self, observed: ObservedCluster, settings: Settings, now: float) -> None:
        self.observed, self.settings, self.now = observed, settings, now
        self.usage = Usage(observed)
        self.groups: dict[tuple[str, ...], _RevisionGroup | PendingReason] = {}
        self.actions: list[Action] = []
        self.messages: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        """(namespace, deployment, event reason) -> one sentence per pod."""
        self.requeue_after_s: float | None = None

    def run(self) -> Decision:
        for pod in self.observed.refused:
            self.actions.append(binding.undo(pod))
            self._record_event(pod, TAKEN_BACK, f"{pod.name} does not fit on {pod.node}: {pod.unschedulable}")
        for pod in self.observed.gated:
            if len(self.actions) >= ACTIONS_PER_CYCLE:
                self.requeue_after_s = 0.0
                break
            self._place(pod)
        return Decision(
            actions=tuple(self.actions), events=tuple(self._events()), requeue_after_s=self.requeue_after_s,
            metrics={"placement_waiting_pods": float(len(self.observed.gated))},
        )  # fmt: skip

    # --- one pod

    def _place(self, pod: PlacedPod) -> None:
        if pod.owner not in self.observed.deployments:
            return  # its owner has been deleted, and garbage collection will delete the pod
        group = self._group(pod)
        if isinstance(group, PendingReason):
            self._keep_pending(pod, group)
            return
        pick = group.heap.pick()
        if pick is None:
            self._handle_no_fit(pod, group)
            return
        receipt = receipts.of(pick, left_out=group.left_out, now=self.now)
        processor = pick.best.candidate.processor
        table = processor.load_table if processor is not None else ()
        self.actions.append(binding.bind(pod, receipt, self.observed.nodes[receipt.node], table))
        self._record_event(pod, PLACED, f"{pod.name}: {receipt.reason}")
        self._assume(pod, receipt.node)

    def _handle_no_fit(self, pod: PlacedPod, group: _RevisionGroup) -> None:
        """Waits for a node or its benchmark, but for a node not longer than the settings say."""
        message = self._describe_no_fit(group)
        left_s = self.settings.unfit_seconds - (self.now - pod.created_at)
        if some_await_benchmark(group.rejections.values()):
            self._keep_pending(pod, PendingReason(reason=NO_BENCHMARK, message=message))
        elif left_s > 0:
            self._keep_pending(pod, PendingReason(reason=NO_FIT, message=message))
            self._requeue(left_s)
        else:
            # A cluster autoscaler does not see a gated pod: only without its gate can a node be added for it.
            receipt = receipts.released(pod.kind, message, now=self.now)
            self.actions.append(binding.release(pod, receipt))
            self._record_event(pod, NO_FIT, f"{pod.name}: {receipt.reason}")

    def _describe_no_fit(self, group: _RevisionGroup) -> str:
        # Nodes that fitted when the group was made may have filled up during this cycle.
        filled = {
            name: rejection
            for name, node in self.observed.nodes.items()
            if name not in group.rejections
            and (rejection := insufficient(group.demand, node, self.usage.requested[name])) is not None
        }
        return describe_rejections(group.rejections | filled, len(self.observed.nodes))

    def _keep_pending(self, pod: PlacedPod, why: PendingReason) -> None:
        self._requeue(REQUEUE_S)
        if pod.waiting != why:  # written and recorded once, not in every cycle
            self.actions.append(binding.annotate_pending(pod, why))
            self._record_event(pod, why.reason, why.message)

    def _requeue(self, after_s: float) -> None:
        self.requeue_after_s = after_s if self.requeue_after_s is None else min(self.requeue_after_s, after_s)

    def _assume(self, pod: PlacedPod, node: str) -> None:
        """Counts the pod where it was placed, and brings the heaps of its deployment up to date."""
        before = tuple(self.usage.replicas[pod.owner])
        self.usage.add(pod, node)
        # A second node takes the spread term off the first one. No other load becomes smaller during a cycle: requests
        # and shares are only ever added, for which a heap needs no touch.
        changed = {node, *before} if len(before) <= 1 else {node}
        for key, group in self.groups.items():
            if key[:2] == pod.owner and isinstance(group, _RevisionGroup):
                # A touched node may enter the heap, which checks its room only: one that was filtered out must not.
                for each in changed - group.rejections.keys():
                    group.heap.touch(each)

    # --- what pods of one revision share

    def _group(self, pod: PlacedPod) -> _RevisionGroup | PendingReason:
        key = (pod.namespace, pod.deployment, pod.kind, pod.revision)
        if key not in self.groups:
            self.groups[key] = self._new_group(pod)
        return self.groups[key]

    def _new_group(self, pod: PlacedPod) -> _RevisionGroup | PendingReason:
        info = self.observed.deployments[pod.owner]
        if isinstance(info, InvalidSpec):
            return PendingReason(reason=INVALID, message=str(info))
        try:
            preferences = preferences_of(info)
        except ValueError as error:
            return PendingReason(reason=INVALID, message=str(error))
        demand = demand_of(pod, info, self.observed.claims)
        if demand.impossible:
            return PendingReason(reason=NO_FIT, message=demand.impossible)
        return self._filter_and_score(pod, demand, preferences)

    def _filter_and_score(self, pod: PlacedPod, demand: Demand, preferences: PlacementPreferences) -> _RevisionGroup:
        found = {name: self._rejection(pod, demand, node) for name, node in self.observed.nodes.items()}
        rejections = {name: rejection for name, rejection in found.items() if rejection is not None}
        fitting = [name for name, rejection in found.items() if rejection is None]

        # Closes over the first pod of the group for all of them: `revision` is the hash of the pod template, so they
        # have the same kind, requests, selectors, tolerations and volumes, and nothing else of a pod is read here.
        # Should a webhook have changed one of them, the cluster's scheduler still checks that it fits.
        def candidate_of(node: str) -> Candidate | None:
            return self._candidate(pod, demand, preferences, node)

        known = [each for each in map(candidate_of, fitting) if each is not None]
        context = ScoreContext.over(known, preferences.weights, preferences.policy)
        return _RevisionGroup(
            demand=demand,
            rejections=rejections,
            heap=CandidateHeap(fitting, candidate_of, context),
            left_out=counted_reasons(rejections),
        )

    def _rejection(self, pod: PlacedPod, demand: Demand, node: NodeInfo) -> NodeRejection | None:
        if (pod.namespace, pod.deployment, pod.kind, node.name) in self.observed.excluded:
            return NodeRejection(reason="refused by the scheduler before")
        processor = self.observed.processor(node.name, pod.kind)
        return rejection_of(demand, node, self.usage.requested[node.name], processor)

    def _candidate(
        self, pod: PlacedPod, demand: Demand, preferences: PlacementPreferences, name: str
    ) -> Candidate | None:
        node, nodes_of_replicas = self.observed.nodes[name], self.usage.replicas[pod.owner]
        if insufficient(demand, node, self.usage.requested[name]):
            return None
        return Candidate(
            node=node,
            kind=demand.kind,
            processor=self.observed.processor(name, demand.kind),
            sample=self._fresh_sample(name, demand.kind),
            pending=self.usage.pending.get((name, demand.kind), 0.0),
            share=self.usage.share(pod, name),
            forecast=self.usage.forecast(pod, name),
            all_replicas_here=preferences.spread and len(nodes_of_replicas) == 1 and name in nodes_of_replicas,
        )

    def _fresh_sample(self, node: str, kind: str) -> Sample | None:
        sample = self.observed.samples.get((node, kind))
        if sample is None or self.now - sample.taken_at > self.settings.sample_stale_seconds:
            return None
        return sample

    # --- events

    def _record_event(self, pod: PlacedPod, reason: str, message: str) -> None:
        self.messages[pod.namespace, pod.deployment, reason].append(message)

    def _events(self) -> Iterator[Event]:
        """One Event per deployment and reason: a burst of a thousand pods must not write a thousand Events."""
        for (namespace, name, reason), messages in self.messages.items():
            info = self.observed.deployments.get((namespace, name))
            if info is None or isinstance(info, InvalidSpec):
                continue
            more = f" (and {len(messages) - 1} more)" if len(messages) > 1 else ""
            is_normal = reason in (PLACED, NO_BENCHMARK)
            yield Event(regarding=info.deployment.raw, reason=reason, message=shorten(messages[0] + more),
                        type="Normal" if is_normal else "Warning", action="Place")  # fmt: skip
