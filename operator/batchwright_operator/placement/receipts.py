"""Placement receipts: why a pod is where it is, as an annotation on the pod and in words.

`parse` and `render` are the only reader and writer of ANNOTATION_RECEIPT.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import rfc3339
from batchwright_operator.placement.scoring import SPREAD_TERM, Pick, Score
from batchwright_worker.api.messages import Receipt, RunnerUp, Terms
from batchwright_worker.api.names import ANNOTATION_RECEIPT, ANNOTATION_WAITING

_decode = msgspec.json.Decoder(Receipt).decode
_TERMS = ("utilization", "memory", "capacity", "pending")


def parse(pod: Raw) -> Receipt | None:
    """The receipt on a pod; None without one, or with one that somebody made unreadable."""
    text = (pod["metadata"].get("annotations") or {}).get(ANNOTATION_RECEIPT)
    if not isinstance(text, str):
        return None
    try:
        return _decode(text)
    except msgspec.DecodeError:
        return None


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
    """What ANNOTATION_WAITING says; None for a pod that has or needs no place, or was not looked at yet."""
    text = (pod["metadata"].get("annotations") or {}).get(ANNOTATION_WAITING)
    if not isinstance(text, str) or not text:
        return None
    reason, _, message = text.partition(": ")
    return PendingReason(reason=reason, message=message)


def of(pick: Pick, *, left_out: str, now: float) -> Receipt:
    """The receipt of a decision; `left_out` counts the nodes that were no candidates (empty: none)."""
    best = pick.best
    losers = [f"{each.candidate.node} lost {_against(best, each)}" for each in pick.runners_up]
    return Receipt(
        node=best.candidate.node,
        processor=best.candidate.kind,
        load=_decimal(best.load),
        terms=Terms(**{name: _decimal(getattr(best, name)) for name in _TERMS}),
        runners_up=[_runner_up(each) for each in pick.runners_up],
        predicted_throughput=best.candidate.forecast,
        decided_time=rfc3339(now),
        reason="; ".join([_sum(best), *losers, *([f"not considered: {left_out}"] if left_out else [])]),
    )


def released(kind: str, why: str, *, now: float) -> Receipt:
    """The receipt of a pod that was let go without a node."""
    return Receipt(
        node="",
        processor=kind,
        load="",
        terms=Terms(utilization="0.00", memory="0.00", capacity="0.00", pending="0.00"),
        decided_time=rfc3339(now),
        reason=f"released to the scheduler without a node: {why}",
    )


def _decimal(value: float) -> str:
    return f"{value:.2f}"


def _runner_up(scored: Score) -> RunnerUp:
    each = scored.candidate
    return RunnerUp(node=each.node, processor=each.kind, load=_decimal(scored.load))


def _sum(best: Score) -> str:
    """The load as a sum whose terms are named; a pending term of 0 is left out, and what is unknown is said."""
    terms = {name: getattr(best, name) for name in _TERMS}
    shown = [name for name in _TERMS if terms[name] >= 0.005 or name in ("utilization", "memory", "capacity")]
    if best.policy == "Forecast":
        shown = ["utilization", "pending"]
    words = " + ".join(f"{name} {_decimal(terms[name])}" for name in shown)
    unknown = [
        text
        for missing, text in (
            (best.candidate.state is None, "no fresh sample"),
            (best.candidate.capacity is None, "not benchmarked"),
        )
        if missing
    ]
    forecast = " after the placement" if best.policy == "Forecast" else ""
    return f"{best.candidate.node}: load{forecast} {_decimal(best.load)} = {words}" + (
        f" ({', '.join(unknown)})" if unknown else ""
    )


def _against(best: Score, other: Score) -> str:
    """Why `other` came after `best`, in the order in which candidates are compared."""
    mine, its = best.candidate, other.candidate
    if its.state is None and mine.state is not None:
        return "for want of a fresh sample"
    if its.capacity is None and mine.capacity is not None:
        return "as it is not benchmarked"
    gap = other.load - best.load
    if gap >= 0.005:
        worst = max(_TERMS, key=lambda name: getattr(other, name) - getattr(best, name))
        spread = its.all_replicas_here and not mine.all_replicas_here and gap < SPREAD_TERM
        return f"by {_decimal(gap)}: {'spread over nodes' if spread else worst}"
    if gap > 0.5e-9:
        return "by less than 0.01"
    return "the tie: smaller capacity" if (its.capacity or 0) < (mine.capacity or 0) else "the tie: name"
