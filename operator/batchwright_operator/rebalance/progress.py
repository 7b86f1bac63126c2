"""What a move that is under way needs next. Pure, and by what is there alone: it goes on after any restart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from batchwright_operator.kube.metadata import annotation
from batchwright_operator.kube.times import rfc3339, unix
from batchwright_operator.placement.moves import ANNOTATION_DELETION_COST, FIRST_TO_GO, Move, State
from batchwright_operator.placement.placed_pods import SETTLE_S, PlacedPod

READY_S: Final = 600.0
"""How long the pod more may take until it is ready."""
LEAVE_S: Final = 300.0
"""How long the moved pod may take to go."""
AFTER_FAILURE: Final = 6.0
"""How many times as long a deployment rests after a move that was given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveStep:
    """The next step: the pod to mark as the first to go, or what the move is now (`over`: nothing any more). Neither:
    wait."""

    mark: PlacedPod | None = None
    move: Move | None = None
    over: bool = False


def next_step(move: Move, pods: Sequence[PlacedPod], *, wanted: int, cooldown_s: float, now: float) -> MoveStep:
    """`pods` are those of the Deployment, `wanted` its `spec.replicas`."""
    age_s = now - (unix(move.since) or 0.0)
    moved = next((each for each in pods if each.uid == move.uid and not each.terminating), None)
    match move.state:
        case "Surging":
            return _surging(move, moved, pods, wanted=wanted, age_s=age_s, now=now)
        case "Leaving":
            if moved is None:
                return _to(move, "Done", now)
            return _to(move, "Done", now, note="another replica went instead") if age_s > LEAVE_S else MoveStep()
        case "Done":
            return MoveStep(over=age_s >= cooldown_s)
        case "GivenUp":
            return MoveStep(over=age_s >= AFTER_FAILURE * cooldown_s)


def _surging(
    move: Move, moved: PlacedPod | None, pods: Sequence[PlacedPod], *, wanted: int, age_s: float, now: float
) -> MoveStep:
    if moved is None:
        return _to(move, "Done", now, note="the pod went by itself")
    began = unix(move.began) or 0.0
    present = [each for each in pods if not each.terminating]
    ready = [each for each in present if each.ready_at is not None and now - each.ready_at >= SETTLE_S]
    # The API server's times are whole seconds, cut.
    fresh = [each for each in ready if each.created_at >= began - 1.0 and each.uid != move.uid]
    if len(present) == len(ready) == wanted and fresh:
        better = next((each for each in fresh if each.node != move.source), None)
        if better is None:
            return _given_up(move, fresh[0], f"the new pod was placed on {move.source} again", now)
        return _to(move, "Leaving", now) if _is_marked(moved) else MoveStep(mark=moved)
    if age_s > READY_S:
        # The pod that did not get ready goes first by itself.
        return _to(move, "GivenUp", now, note=f"the new pod was not ready within {READY_S:.0f} s")
    return MoveStep()


def _given_up(move: Move, surplus: PlacedPod, note: str, now: float) -> MoveStep:
    """First it is marked that it is the new pod that goes."""
    return _to(move, "GivenUp", now, note=note) if _is_marked(surplus) else MoveStep(mark=surplus)


def _to(move: Move, state: State, now: float, *, note: str = "") -> MoveStep:
    return MoveStep(move=msgspec.structs.replace(move, state=state, since=rfc3339(now), note=note))


def _is_marked(pod: PlacedPod) -> bool:
    return annotation(pod.raw, ANNOTATION_DELETION_COST) == FIRST_TO_GO
