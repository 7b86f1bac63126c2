"""Placement receipts: why a pod is where it is, as an annotation on the pod and as a sentence. Pure.

`parse` and `render` are the only reader and writer of ANNOTATION_RECEIPT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import rfc3339
from batchwright_operator.placement.candidate_heap import Pick
from batchwright_operator.placement.scoring import DECIMALS, ROUNDS_TO_ZERO, SPREAD_TERM, TERMS, Score
from batchwright_worker.api.messages import Receipt, RunnerUp
from batchwright_worker.api.names import ANNOTATION_RECEIPT, ANNOTATION_WAITING

_decode = msgspec.json.Decoder(Receipt).decode
_TIE: Final = 0.5 * 10**-DECIMALS
"""Loads that are closer than this are a tie to `Score.rank`."""


def parse(pod: Raw) -> Receipt | None:
    """The receipt on a pod; None without one, or with one that somebody made unreadable.

    Terms that this version does not know are left out: nothing but what the CRD names may reach the status.
    """
    text = (pod["metadata"].get("annotations") or {}).get(ANNOTATION_RECEIPT)
    if not isinstance(text, str):
        return None
    try:
        found = _decode(text)
    except msgspec.DecodeError:
        return None
    return msgspec.structs.replace(found, terms={name: found.terms[name] for name in TERMS if name in found.terms})


def render(receipt: Receipt) -> str:
    """The annotation's value; deterministic."""
    return msgspec.json.encode(receipt).decode()


def describe(receipt: Receipt) -> str:
    """One sentence, e.g. `node-b: load 0.41 = utilization 0.30 + memory 0.05 + capacity 0.06; node-a lost by 0.22:
    utilization`."""
    return receipt.reason or f"{receipt.node or 'any node'}: load {receipt.load}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingReason:
    """Why a gated pod has no place: `reason` is CamelCase, `message` a sentence."""

    reason: str
    message: str

    def render(self) -> str:
        """The value of ANNOTATION_WAITING."""
        return f"{self.reason}: {self.message}"


def pending_reason(pod: Raw) -> PendingReason | None:
    """What ANNOTATION_WAITING says; None for a pod that has or needs no place, or is yet to be decided on."""
    text = (pod["metadata"].get("annotations") or {}).get(ANNOTATION_WAITING)
    if not isinstance(text, str) or not text:
        return None
    reason, _, message = text.partition(": ")
    return PendingReason(reason=reason, message=message)


def of(pick: Pick, *, left_out: str, now: float) -> Receipt:
    """The receipt of a decision; `left_out` counts the nodes that were no candidates (empty: none)."""
    best = pick.best
    losers = [f"{each.candidate.node.name} lost {_against(best, each)}" for each in pick.runners_up]
    return Receipt(
        node=best.candidate.node.name,
        processor=best.candidate.kind,
        load=_decimal(best.load),
        terms={name: _decimal(value) for name, value in best.terms.items()},
        runners_up=[_runner_up(each) for each in pick.runners_up],
        predicted_throughput=best.candidate.forecast,
        decided_time=rfc3339(now),
        reason="; ".join([_as_sum(best), *losers, *([f"not considered: {left_out}"] if left_out else [])]),
    )


def released(kind: str, why: str, *, now: float) -> Receipt:
    """The receipt of a pod that was released to the scheduler without a node."""
    return Receipt(
        node="",
        processor=kind,
        load="",
        terms=dict.fromkeys(TERMS, _decimal(0.0)),
        decided_time=rfc3339(now),
        reason=f"released to the scheduler without a node: {why}",
    )


def _decimal(value: float) -> str:
    return f"{value:.2f}"


def _runner_up(scored: Score) -> RunnerUp:
    each = scored.candidate
    return RunnerUp(node=each.node.name, processor=each.kind, load=_decimal(scored.load))


def _as_sum(best: Score) -> str:
    """The load as a sum of named terms, then what is unknown of the candidate."""
    context, candidate = best.context, best.candidate
    shown = [name for name, term in context.terms.items() if term.is_said(best.terms[name], context.policy)]
    summands = " + ".join(f"{name} {_decimal(best.terms[name])}" for name in shown)
    unknown = ["no fresh sample"] * (candidate.sample is None) + ["not benchmarked"] * (candidate.capacity is None)
    forecast = " after the placement" if context.policy == "Forecast" else ""
    sentence = f"{candidate.node.name}: load{forecast} {_decimal(best.load)} = {summands}"
    return f"{sentence} ({', '.join(unknown)})" if unknown else sentence


def _against(best: Score, other: Score) -> str:
    """Why `other` came after `best`, in the order in which candidates are compared (`Score.rank`)."""
    mine, its = best.candidate, other.candidate
    if its.sample is None and mine.sample is not None:
        return "for want of a fresh sample"
    if its.capacity is None and mine.capacity is not None:
        return "as it is not benchmarked"
    gap = other.load - best.load
    if gap >= ROUNDS_TO_ZERO:
        worst = max(best.terms, key=lambda name: other.terms[name] - best.terms[name])
        # `other` would have won without the spread term: spreading is the reason, not `pending`, where it is added.
        spread = its.all_replicas_here and not mine.all_replicas_here and gap < SPREAD_TERM
        return f"by {_decimal(gap)}: {'spread over nodes' if spread else worst}"
    if gap > _TIE:
        return "by less than 0.01"
    return "the tie: smaller capacity" if (its.capacity or 0) < (mine.capacity or 0) else "the tie: name"
