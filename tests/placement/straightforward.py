"""The rule of placement as one would write it down, without any of what makes it fast: an oracle.

For each pod all nodes are looked at anew, with sums over all pods and a sort of all scores; nothing is kept but what
the rule itself keeps, the context of a comparison. The receipt's words are put together anew, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from batchwright_operator.api.invalid_spec import InvalidSpec
from batchwright_operator.api.model_deployment import parse
from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, MODEL_DEPLOYMENT, NODE, POD
from batchwright_operator.kube.quantities import total
from batchwright_operator.kube.times import rfc3339
from batchwright_operator.placement.demand import (
    Claims,
    Demand,
    DeploymentInfo,
    PlacementPreferences,
    demand_of,
    deployment_info,
    preferences_of,
    ratio_of,
)
from batchwright_operator.placement.filter import counted, rejection_of
from batchwright_operator.placement.placed_pods import PlacedPod, model_pod
from batchwright_operator.placement.scoring import Candidate, Score, ScoreContext, expected_share, score
from batchwright_operator.processors.nodes import NodeInfo, node_info
from batchwright_operator.processors.processor import Processor, processors_of
from batchwright_operator.reconcile.cache import Store
from batchwright_operator.reconcile.live_state import LiveState, Sample
from batchwright_operator.settings import Settings
from batchwright_worker.api.messages import Receipt, RunnerUp
from batchwright_worker.api.names import KIND_CPU

ON = tuple[PlacedPod, str]
"""A pod and its node."""


@dataclass(slots=True)
class Contexts:
    """Those of the comparisons so far, by what they are about: the first pod that asks for something decides."""

    known: dict[object, ScoreContext] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Straightforward:
    """Decides on the waiting pods of a cache."""

    store: Store
    live: LiveState
    settings: Settings
    now: float
    contexts: Contexts
    placed: list[ON] = field(default_factory=list)

    def decide(self) -> dict[str, Receipt | str]:
        """Pod -> its receipt, or why it gets no place, counted."""
        pods = [model_pod(raw) for raw in self.store.all(POD)]
        self.placed = [(pod, pod.node) for pod in pods if pod.node]
        return {pod.name: self._place(pod) for pod in _turns(pod for pod in pods if pod.gated)}

    def _place(self, pod: PlacedPod) -> Receipt | str:
        info = self._info(pod)
        demand, preferences = demand_of(pod, info, Claims(self.store)), preferences_of(info)
        if demand.impossible:
            return demand.impossible
        fitting, reasons = list[Candidate](), Counter[str]()
        for node in self._nodes():
            processor = self._processor(node.name, pod.kind)
            requested = total(each.requests for each, name in self.placed if name == node.name)
            offers = pod.kind in node.kinds or node.allocatable.get(pod.kind)
            refusal = rejection_of(demand, node, requested, processor) if offers else None
            if not offers:
                reasons[f"without {pod.kind}"] += 1
            elif refusal is not None:
                reasons[refusal.reason] += 1
            else:
                fitting.append(self._candidate(pod, node, processor, preferences))
        context = self._context(pod, demand, preferences, fitting)
        if not fitting:
            return counted(reasons)
        scores = sorted((score(each, context) for each in fitting), key=lambda each: each.rank)
        best, *others = scores[:4]
        self.placed.append((pod, best.candidate.node.name))
        return receipt_of(best, others, self._forecast(pod, best.candidate.node.name), counted(reasons), self.now)

    def _candidate(
        self, pod: PlacedPod, node: NodeInfo, processor: Processor | None, preferences: PlacementPreferences
    ) -> Candidate:
        sample, by_forecast = self._fresh(node.name, pod.kind), preferences.policy == "Forecast"
        here = [each for each, name in self.placed if name == node.name and each.kind == pod.kind]
        newest = self.live.samples.get((node.name, pod.kind))
        of_deployment = {name for each, name in self.placed if each.owner == pod.owner}
        return Candidate(
            node=node,
            kind=pod.kind,
            processor=processor,
            sample=sample,
            pending=sum(each.unseen(newest) * self._share(each, node) for each in here),
            share=self._share(pod, node) if by_forecast else 0.0,
            forecast=self._forecast(pod, node.name) if by_forecast else None,
            all_replicas_here=preferences.spread and of_deployment == {node.name},
        )

    def _context(
        self, pod: PlacedPod, demand: Demand, preferences: PlacementPreferences, fitting: list[Candidate]
    ) -> ScoreContext:
        owner = (pod.owner, self._ratio(pod)) if preferences.policy == "Forecast" else ()
        at = (repr(demand), repr(preferences), owner)
        if at not in self.contexts.known:
            self.contexts.known[at] = ScoreContext.over(fitting, preferences.weights, preferences.policy)
        return self.contexts.known[at]

    # --- facts

    def _nodes(self) -> list[NodeInfo]:
        return [node_info(raw) for raw in self.store.all(NODE)]

    def _info(self, pod: PlacedPod) -> DeploymentInfo:
        raw = self.store.get(MODEL_DEPLOYMENT, *pod.owner)
        assert raw is not None
        try:
            return deployment_info(parse(raw), self.settings)
        except InvalidSpec as error:
            raise AssertionError(error) from error

    def _processor(self, node: str, kind: str) -> Processor | None:
        return processors_of(self.store.get(ACCELERATOR_PROFILE, "", node)).get(kind)

    def _fresh(self, node: str, kind: str) -> Sample | None:
        sample = self.live.samples.get((node, kind))
        stale_s = self.settings.sample_stale_seconds
        return None if sample is None or self.now - sample.taken_at > stale_s else sample

    def _ratio(self, pod: PlacedPod) -> float | None:
        running = []
        for each, name in self.placed:
            processor, received = self._processor(name, each.kind), self.live.sidecars.get(each.uid)
            if each.owner == pod.owner and received is not None and processor is not None and processor.capacity:
                running.append((received.state, processor.capacity))
        return ratio_of(running)

    def _forecast(self, pod: PlacedPod, node: str) -> float | None:
        ratio, processor = self._ratio(pod), self._processor(node, pod.kind)
        return ratio * processor.capacity if ratio and processor is not None and processor.capacity else None

    def _share(self, pod: PlacedPod, node: NodeInfo) -> float:
        target, processor = self._info(pod).target, self._processor(node.name, pod.kind)
        forecast = None if target is None else self._forecast(pod, node.name)
        if pod.kind == KIND_CPU:
            services = processor.max_services if processor is not None else None
            return expected_share(target=target, forecast=forecast, max_services=services)
        busy = expected_share(target=target, forecast=forecast, max_services=1)
        return busy * max(1.0, pod.requests.get(pod.kind, 1.0)) / max(1.0, node.allocatable.get(pod.kind, 1.0))


def _turns(pods: Iterable[PlacedPod]) -> list[PlacedPod]:
    """One of each namespace, then the next of each; the oldest first."""
    queues: dict[str, list[PlacedPod]] = {}
    for pod in sorted(pods, key=lambda each: (each.namespace, each.created_at, each.name)):
        queues.setdefault(pod.namespace, []).append(pod)
    longest = max(map(len, queues.values()), default=0)
    return [queue[turn] for turn in range(longest) for queue in queues.values() if turn < len(queue)]


def receipt_of(best: Score, others: list[Score], forecast: float | None, left_out: str, now: float) -> Receipt:
    """The receipt, word by word."""
    mine, policy = best.candidate, best.context.policy
    sample, capacity = mine.sample, mine.capacity
    unknown = ["no sample that lasts"] * (sample is None) + ["not benchmarked"] * (capacity is None)
    known = {
        name: f"{value:.2f}"
        for name, value in best.terms.items()
        if not (sample is None and name in {"utilization", "memory"}) and not (capacity is None and name == "capacity")
    }
    said = [
        f"{name} {text}"
        for name, text in known.items()
        if name != "pending" or policy == "Forecast" or best.terms[name] >= 0.005
    ]
    by = {"Additive": "", "ThroughputLeft": " by throughput left", "Forecast": " after the placement"}[policy]
    brackets = f" ({', '.join(unknown)})" if unknown else ""
    if said:
        as_far = " as far as it is known" if unknown else ""
        words = [f"{mine.node.name}: load{by}{as_far} {best.load:.2f} = {' + '.join(said)}{brackets}"]
    else:
        words = [f"{mine.node.name}: nothing is known of its load{brackets}"]
    words += [f"{each.candidate.node.name} lost {_why(best, each)}" for each in others]
    if left_out:
        words.append(f"not considered: {left_out}")
    age_s = None
    if sample is not None:
        age_s = round(max(0.0, now - sample.last_at), 1)
        mean = f"mean of {sample.seconds:.0f} s" if sample.seconds else "one sample"
        without = f", without {sample.left_out:.2f} by pods that end" if sample.left_out >= 0.005 else ""
        words.append(f"state: {mean}, {age_s:.0f} s old{without}")
    predicted = forecast
    if forecast is not None and sample is not None and mine.shared:
        predicted = forecast * max(0.0, 1.0 - sample.utilization - mine.pending)
    return Receipt(
        node=mine.node.name,
        processor=mine.kind,
        load=f"{best.load:.2f}",
        terms=known,
        state_seconds=None if sample is None else round(sample.seconds, 1),
        state_age_seconds=age_s,
        runners_up=[
            RunnerUp(node=each.candidate.node.name, processor=each.candidate.kind, load=f"{each.load:.2f}")
            for each in others
        ],
        policy=policy,
        predicted_throughput=predicted,
        decided_time=rfc3339(now),
        reason="; ".join(words),
    )


def _why(best: Score, other: Score) -> str:
    mine, its = best.candidate, other.candidate
    if its.sample is None and mine.sample is not None:
        return "for want of a sample that lasts"
    if its.capacity is None and mine.capacity is not None:
        return "as it is not benchmarked"
    gap = other.load - best.load
    if gap >= 0.005:
        spread = its.all_replicas_here and not mine.all_replicas_here and gap < 0.1
        return f"by {gap:.2f}: {'spread over nodes' if spread else _worst(best.terms, other.terms)}"
    if gap > 0.5e-9:
        return "by less than 0.01"
    return "the tie: smaller capacity" if (its.capacity or 0) < (mine.capacity or 0) else "the tie: name"


def _worst(ours: Mapping[str, float], others: Mapping[str, float]) -> str:
    return max(ours, key=lambda name: others[name] - ours[name])
