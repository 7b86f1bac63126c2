"""One pass of placement: all gated pods, oldest first, each seeing the placements decided before it. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from batchwright_operator.api.invalid_spec import InvalidSpec
from batchwright_operator.api.model_deployment import ModelDeployment
from batchwright_operator.kube.conditions import shorten
from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.quantities import Amounts
from batchwright_operator.placement import binding as ungating
from batchwright_operator.placement import filter as candidates
from batchwright_operator.placement import receipts
from batchwright_operator.placement.candidate_heap import CandidateHeap
from batchwright_operator.placement.demand import Claims, PlacementPreferences, demand_of, preferences_of, target_of
from batchwright_operator.placement.filter import Demand, NodeRejection
from batchwright_operator.placement.placed_pods import PlacedPod
from batchwright_operator.placement.receipts import PendingReason
from batchwright_operator.placement.scoring import Candidate, Policy, ScoreContext, expected_share
from batchwright_operator.processors.nodes import NodeInfo
from batchwright_operator.processors.processor import Processor
from batchwright_operator.reconcile.decisions import Action, Decision, Event
from batchwright_operator.reconcile.live_state import Sample
from batchwright_operator.settings import Settings
from batchwright_worker.api.names import KIND_CPU

ACTIONS_PER_PASS = 500
"""Then the pass ends and the next one follows at once, from newer facts."""
LOOK_AGAIN_S = 5.0
"""While pods wait: pods of others come and go without a word to this domain."""
PLACED, NO_FIT, NO_BENCHMARK = "Placed", "NoFittingProcessor", "AwaitingBenchmark"
TAKEN_BACK, INVALID = "PlacementTakenBack", "InvalidSpec"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedCluster:
    """All facts that a pass decides on."""

    gated: tuple[PlacedPod, ...] = ()
    """Oldest first."""
    refused: tuple[PlacedPod, ...] = ()
    occupants: tuple[PlacedPod, ...] = ()
    """Every pod that holds something of a node."""
    nodes: Mapping[str, NodeInfo] = field(default_factory=dict)
    processors: Mapping[str, Mapping[str, Processor]] = field(default_factory=dict)
    """Node -> kind -> what its profile says."""
    samples: Mapping[tuple[str, str], Sample] = field(default_factory=dict)
    deployments: Mapping[tuple[str, str], ModelDeployment | InvalidSpec] = field(default_factory=dict)
    ratios: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """(namespace, deployment) -> rows per benchmarked image, where it has been measured."""
    claims: Claims = field(default_factory=dict)
    excluded: frozenset[tuple[str, str, str, str]] = frozenset()
    """(namespace, deployment, kind, node) that the scheduler refused."""


@dataclass(slots=True, kw_only=True)
class _RevisionGroup:
    """What pods of one revision and kind share during a pass."""

    demand: Demand
    rejections: dict[str, NodeRejection]
    board: CandidateHeap
    left_out: str
    """The misfits, counted."""


def decide(observed: ObservedCluster, settings: Settings, now: float) -> Decision:
    """Where every gated pod goes, why the others wait, and which pods are taken back."""
    return _Cycle(observed, settings, now).run()


class _Cycle:
    """The tallies of one pass; what is decided changes them for the next pod."""

    def __init__(self, observed: ObservedCluster, settings: Settings, now: float) -> None:
        self.observed, self.settings, self.now = observed, settings, now
        self.used: dict[str, Amounts] = defaultdict(dict)
        self.pending: dict[tuple[str, str], float] = defaultdict(float)
        self.replicas: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self.targets: dict[tuple[str, str], float | None] = {}
        self.slots: dict[tuple[str, ...], _RevisionGroup | PendingReason] = {}
        self.actions: list[Action] = []
        self.told: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        """(namespace, deployment, event reason) -> one sentence per pod."""
        self.wake_s: float | None = None
        for pod in observed.occupants:
            self._count(pod, pod.node)

    def run(self) -> Decision:
        for pod in self.observed.refused:
            self.actions.append(ungating.take_back(pod))
            self._tell(pod, TAKEN_BACK, f"{pod.name} does not fit on {pod.node}: {pod.verdict}")
        for pod in self.observed.gated:
            if len(self.actions) >= ACTIONS_PER_PASS:
                self.wake_s = 0.0
                break
            self._place(pod)
        return Decision(
            actions=tuple(self.actions), events=tuple(self._events()), requeue_after_s=self.wake_s,
            metrics={"placement_waiting_pods": float(len(self.observed.gated))},
        )  # fmt: skip

    # --- one pod

    def _place(self, pod: PlacedPod) -> None:
        if (pod.namespace, pod.deployment) not in self.observed.deployments:
            return  # its owner is gone; so will it be
        slot = self._slot(pod)
        if isinstance(slot, PendingReason):
            self._wait(pod, slot)
            return
        pick = slot.board.pick()
        if pick is None:
            self._unfit(pod, slot)
            return
        receipt = receipts.of(pick, left_out=slot.left_out, now=self.now)
        self.actions.append(ungating.pin(pod, receipt, self.observed.nodes[receipt.node]))
        self._tell(pod, PLACED, f"{pod.name}: {receipt.reason}")
        self._count(pod, receipt.node)

    def _unfit(self, pod: PlacedPod, slot: _RevisionGroup) -> None:
        waits = dict(slot.rejections)
        for name, node in self.observed.nodes.items():
            if name not in waits and (misfit := candidates.insufficient(slot.demand, node, self.used[name])):
                waits[name] = misfit
        words = candidates.describe(waits, len(self.observed.nodes))
        left_s = self.settings.unfit_seconds - (self.now - pod.created_at)
        if candidates.waits_only_for_benchmarks(waits.values()):
            self._wait(pod, PendingReason(reason=NO_BENCHMARK, message=words))
        elif left_s > 0:
            self._wait(pod, PendingReason(reason=NO_FIT, message=words))
            self._wake(left_s)
        else:
            receipt = receipts.released(pod.kind, words, now=self.now)
            self.actions.append(ungating.release(pod, receipt))
            self._tell(pod, NO_FIT, f"{pod.name}: {receipt.reason}")

    def _wait(self, pod: PlacedPod, why: PendingReason) -> None:
        self._wake(LOOK_AGAIN_S)
        if pod.waiting != why:
            self.actions.append(ungating.tell(pod, why))
            self._tell(pod, why.reason, why.message)

    def _wake(self, after_s: float) -> None:
        self.wake_s = after_s if self.wake_s is None else min(self.wake_s, after_s)

    # --- what pods of one revision share

    def _slot(self, pod: PlacedPod) -> _RevisionGroup | PendingReason:
        key = (pod.namespace, pod.deployment, pod.kind, pod.revision)
        if key not in self.slots:
            self.slots[key] = self._new_slot(pod)
        return self.slots[key]

    def _new_slot(self, pod: PlacedPod) -> _RevisionGroup | PendingReason:
        deployment = self.observed.deployments[pod.namespace, pod.deployment]
        if isinstance(deployment, InvalidSpec):
            return PendingReason(reason=INVALID, message=str(deployment))
        try:
            wish = preferences_of(deployment)
        except ValueError as error:
            return PendingReason(reason=INVALID, message=str(error))
        demand = demand_of(pod, deployment, self.observed.claims, self.settings)
        if demand.impossible:
            return PendingReason(reason=NO_FIT, message=demand.impossible)
        return self._slot_of(pod, demand, wish)

    def _slot_of(self, pod: PlacedPod, demand: Demand, wish: PlacementPreferences) -> _RevisionGroup:
        rejections: dict[str, NodeRejection] = {}
        fitting: list[str] = []
        for name, node in self.observed.nodes.items():
            misfit = self._misfit(pod, demand, node)
            if misfit is None:
                fitting.append(name)
            else:
                rejections[name] = misfit

        def candidate_of(node: str) -> Candidate | None:
            return self._candidate(pod, demand, wish, node)

        known = [each for each in map(candidate_of, fitting) if each is not None]
        rule = ScoreContext.over(known, wish.weights, _policy(wish))
        board = CandidateHeap(fitting, candidate_of, rule)
        return _RevisionGroup(
            demand=demand, rejections=rejections, board=board, left_out=candidates.counted(rejections)
        )

    def _misfit(self, pod: PlacedPod, demand: Demand, node: NodeInfo) -> NodeRejection | None:
        if (pod.namespace, pod.deployment, pod.kind, node.name) in self.observed.excluded:
            return NodeRejection(reason="refused by the scheduler before")
        return candidates.rejection_of(demand, node, self.used[node.name], self._processor(node.name, pod.kind))

    def _candidate(self, pod: PlacedPod, demand: Demand, wish: PlacementPreferences, name: str) -> Candidate | None:
        node = self.observed.nodes[name]
        if candidates.insufficient(demand, node, self.used[name]):
            return None
        elsewhere = self.replicas[pod.namespace, pod.deployment]
        return Candidate(
            node=node,
            kind=demand.kind,
            processor=self._processor(name, demand.kind),
            sample=self._fresh(name, demand.kind),
            pending=self.pending.get((name, demand.kind), 0.0),
            share=self._share(pod, name),
            forecast=self._forecast(pod, name),
            all_replicas_here=wish.spread and len(elsewhere) == 1 and name in elsewhere,
        )

    # --- tallies

    def _count(self, pod: PlacedPod, node: str) -> None:
        """This pod takes its requests there, and its share until the samples show it."""
        used = self.used[node]
        for name, value in pod.requests.items():
            used[name] = used.get(name, 0.0) + value
        if not pod.deployment or pod.terminating:
            return
        owner = (pod.namespace, pod.deployment)
        sample = self.observed.samples.get((node, pod.kind))
        if pod.unseen(sample.taken_at if sample else None):
            self.pending[node, pod.kind] += self._share(pod, node)
        changed = {node, *self.replicas[owner]} if len(self.replicas[owner]) <= 1 else {node}
        self.replicas[owner][node] += 1
        for key, slot in self.slots.items():
            if key[:2] == owner and isinstance(slot, _RevisionGroup):
                for each in changed - slot.rejections.keys():
                    slot.board.touch(each)

    def _share(self, pod: PlacedPod, node: str) -> float:
        """Expected share of the processor: of its devices where they are exclusive, times the target's part."""
        target = self._target((pod.namespace, pod.deployment))
        forecast = self._forecast(pod, node)
        processor = self._processor(node, pod.kind)
        if pod.kind == KIND_CPU:
            services = processor.max_services if processor else None
            return expected_share(target=target, forecast=forecast, max_services=services)
        facts = self.observed.nodes.get(node)
        devices = max(1.0, facts.allocatable.get(pod.kind, 1.0)) if facts else 1.0
        busy = expected_share(target=target, forecast=forecast, max_services=1)
        return busy * max(1.0, pod.requests.get(pod.kind, 1.0)) / devices

    def _forecast(self, pod: PlacedPod, node: str) -> float | None:
        """Rows/s of one replica: the processor's capacity times the model's own measured ratio."""
        ratio = self.observed.ratios.get((pod.namespace, pod.deployment))
        processor = self._processor(node, pod.kind)
        return ratio * processor.capacity if ratio and processor and processor.capacity else None

    def _target(self, owner: tuple[str, str]) -> float | None:
        if owner not in self.targets:
            deployment = self.observed.deployments.get(owner)
            self.targets[owner] = target_of(deployment) if isinstance(deployment, ModelDeployment) else None
        return self.targets[owner]

    def _processor(self, node: str, kind: str) -> Processor | None:
        return self.observed.processors.get(node, {}).get(kind)

    def _fresh(self, node: str, kind: str) -> Sample | None:
        sample = self.observed.samples.get((node, kind))
        if sample is None or self.now - sample.taken_at > self.settings.sample_stale_seconds:
            return None
        return sample

    # --- words

    def _tell(self, pod: PlacedPod, reason: str, message: str) -> None:
        self.told[pod.namespace, pod.deployment, reason].append(message)

    def _events(self) -> Iterator[Event]:
        for (namespace, name, reason), messages in self.told.items():
            deployment = self.observed.deployments.get((namespace, name))
            if isinstance(deployment, ModelDeployment):
                regarding: Raw = deployment.raw
                more = f" (and {len(messages) - 1} more)" if len(messages) > 1 else ""
                calm = reason in (PLACED, NO_BENCHMARK)
                yield Event(regarding=regarding, reason=reason, message=shorten(messages[0] + more),
                            type="Normal" if calm else "Warning", action="Place")  # fmt: skip


def _policy(wish: PlacementPreferences) -> Policy:
    """Forecast needs to know how much each pod brings: a target."""
    return "Forecast" if wish.policy == "Forecast" and wish.target else "Additive"
