"""One pass of rebalancing: the next step of every move, and new ones as far as the budget goes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from batchwright_operator.kube.objects import DEPLOYMENT, POD, Raw
from batchwright_operator.kube.times import rfc3339
from batchwright_operator.placement.moves import (
    ANNOTATION_DELETION_COST,
    ANNOTATION_MOVE,
    FIRST_TO_GO,
    Move,
    move_of,
    render,
)
from batchwright_operator.placement.placed_pods import PlacedPod
from batchwright_operator.rebalance.imbalance import WINDOWS
from batchwright_operator.rebalance.progress import MoveStep, next_step
from batchwright_operator.rebalance.standing import Standing
from batchwright_operator.reconcile.decisions import Action, Decision, Event, Patch
from batchwright_operator.settings import Settings

UNDER_WAY_S = 2.0
"""How often a move that is under way is looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The replicas of one kind of a ModelDeployment: the apps/v1 Deployment, its pods, and whose it is (raw)."""

    deployment: Raw
    owner: Raw
    pods: tuple[PlacedPod, ...]

    @property
    def wanted(self) -> int:
        """Its `spec.replicas`, the pod more of a move included."""
        return int(self.deployment["spec"].get("replicas", 0))

    @property
    def move(self) -> Move | None:
        """The move that is written on it."""
        return move_of(self.deployment)


def decide(workloads: Sequence[Workload], worst: Sequence[Standing], settings: Settings, now: float) -> Decision:
    """`worst`: replicas whose imbalance has lasted, at most one of each deployment, those to be moved first at the
    front."""
    actions: list[Action] = []
    events: list[Event] = []
    under_way = 0
    resting = set()
    for each in workloads:
        if (move := each.move) is None:
            continue
        cooldown_s = settings.rebalance_cooldown_seconds
        step = next_step(move, each.pods, wanted=each.wanted, cooldown_s=cooldown_s, now=now)
        actions += _carried_out(each, step)
        events += _told(each, move, step)
        under_way += not move.is_over
        resting.add(each.owner["metadata"]["uid"])
    by_pod = {pod.uid: each for each in workloads for pod in each.pods}
    free = settings.rebalance_moves_at_once - under_way
    for standing in worst:
        workload = by_pod.get(standing.pod.uid)
        if free <= 0 or workload is None or workload.owner["metadata"]["uid"] in resting:
            continue
        actions.append(_annotate(workload.deployment, _begun(standing, now)))
        events.append(_event(workload.owner, "Rebalancing", _why(standing)))
        resting.add(workload.owner["metadata"]["uid"])
        free, under_way = free - 1, under_way + 1
    return Decision(
        actions=tuple(actions), events=tuple(events),
        requeue_after_s=UNDER_WAY_S if under_way or actions else None,
        metrics={"batchwright_rebalance_moves_under_way": float(under_way)},
    )  # fmt: skip


def _carried_out(workload: Workload, step: MoveStep) -> Iterator[Action]:
    if step.mark is not None:
        # In a pass of its own, before the Deployment says that there is a pod less: so its ReplicaSet has seen it.
        pod = step.mark
        patch = {"metadata": {"annotations": {ANNOTATION_DELETION_COST: FIRST_TO_GO}}}
        yield Patch(resource=POD, namespace=pod.namespace, name=pod.name, uid=pod.uid, patch=patch, style="merge")
    elif step.move is not None or step.over:
        yield _annotate(workload.deployment, step.move)


def _annotate(deployment: Raw, move: Move | None) -> Patch:
    metadata = deployment["metadata"]
    value = None if move is None else render(move)
    return Patch(
        resource=DEPLOYMENT, namespace=metadata["namespace"], name=metadata["name"], uid=metadata["uid"],
        patch={"metadata": {"annotations": {ANNOTATION_MOVE: value}}}, style="merge",
        resource_version=metadata.get("resourceVersion"),
    )  # fmt: skip


def _begun(standing: Standing, now: float) -> Move:
    pod = standing.pod
    return Move(
        pod=pod.name, uid=pod.uid, source=pod.node, target=standing.target, state="Surging",
        since=rfc3339(now), began=rfc3339(now),
    )  # fmt: skip


def _why(standing: Standing) -> str:
    return (
        f"{standing.pod.name} is moved from {standing.pod.node}: for {WINDOWS} windows its load there was "
        f"{standing.gain:.2f} above that on {standing.target} ({standing.here:.2f} and {standing.there:.2f} by "
        "throughput left); a pod more is started first"
    )


def _told(workload: Workload, move: Move, step: MoveStep) -> Iterator[Event]:
    after = step.move
    if after is None or not after.is_over:
        return
    if after.state == "GivenUp":
        text = f"{move.pod} stays on {move.source}: {after.note}"
        yield _event(workload.owner, "RebalanceGivenUp", text, warning=True)
    else:
        note = f" ({after.note})" if after.note else ""
        yield _event(workload.owner, "Rebalanced", f"{move.pod} has left {move.source}{note}")


def _event(owner: Raw, reason: str, message: str, *, warning: bool = False) -> Event:
    return Event(
        regarding=owner, reason=reason, message=message, type="Warning" if warning else "Normal", action="Rebalance"
    )
