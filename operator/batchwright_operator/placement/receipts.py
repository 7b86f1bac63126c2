"""Placement receipts: why a pod is where it is, as an annotation on the pod and as a sentence. Pure.

`parse` and `render` are the only reader and writer of ANNOTATION_RECEIPT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import rfc3339
from batchwright_operator.placement.ranking import Pick
from batchwright_operator.placement.scoring import DECIMALS, ROUNDS_TO_ZERO, SPREAD_TERM, TERMS, Policy, Score
from batchwright_operator.reconcile.live_state import Sample
from batchwright_worker.api.messages import Receipt, RunnerUp
from batchwright_worker.api.names import ANNOTATION_RECEIPT, ANNOTATION_WAITING

_decode = msgspec.json.Decoder(Receipt).decode
_BY: Final[Mapping[Policy, str]] = {
    "Additive": "",
    "ThroughputLeft": " by throughput left",
    "Forecast": " after the placement",
}
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
    best, candidate = pick.best, pick.best.candidate
    sample = candidate.sample
    age_s = 0.0 if sample is None else round(max(0.0, now - sample.last_at), 1)
    is_all_known = sample is not None and candidate.capacity is not None
    terms = {name: f"{value:.2f}" for name, value in best.terms.items() if is_all_known or _is_known(best, name)}
    load = f"{best.load:.2f}"
    said = [_as_sum(best, load, terms)]
    said += [f"{each.candidate.node.name} lost {_against(best, each)}" for each in pick.runners_up]
    if left_out:
        said.append(f"not considered: {left_out}")
    if sample is not None:
        said.append(_state(sample, age_s))
    return Receipt(
        node=candidate.node.name,
        processor=candidate.kind,
        load=load,
        terms=terms,
        state_seconds=None if sample is None else round(sample.seconds, 1),
        state_age_seconds=None if sample is None else age_s,
        runners_up=[_runner_up(each) for each in pick.runners_up],
        policy=best.context.policy,
        predicted_throughput=candidate.predicted,
        decided_time=rfc3339(now),
        reason="; ".join(said),
    )


def released(kind: str, why: str, *, now: float) -> Receipt:
    """The receipt of a pod that was released to the scheduler without a node."""
    return Receipt(
        node="",
        processor=kind,
        load="",
        terms={},
        decided_time=rfc3339(now),
        reason=f"released to the scheduler without a node: {why}",
    )


def _decimal(value: float) -> str:
    return f"{value:.2f}"


def _runner_up(scored: Score) -> RunnerUp:
    each = scored.candidate
    return RunnerUp(node=each.node.name, processor=each.kind, load=_decimal(scored.load))


def _as_sum(best: Score, load: str, known: Mapping[str, str]) -> str:
    """The load as a sum of named terms, of those that are known, then what is unknown of the candidate."""
    candidate, terms, silent = best.candidate, best.terms, best.context.silent_at_zero
    said = [f"{name} {text}" for name, text in known.items() if name not in silent or terms[name] >= ROUNDS_TO_ZERO]
    summands, node, by = " + ".join(said), candidate.node.name, _BY[best.context.policy]
    if candidate.sample is not None and candidate.capacity is not None:
        return f"{node}: load{by} {load} = {summands}"
    unknown = ["no sample that lasts"] * (candidate.sample is None) + ["not benchmarked"] * (candidate.capacity is None)
    if not summands:
        return f"{node}: nothing is known of its load ({', '.join(unknown)})"
    return f"{node}: load{by} as far as it is known {load} = {summands} ({', '.join(unknown)})"


def _is_known(score: Score, name: str) -> bool:
    return score.context.terms[name].is_known(score.candidate)


def _state(sample: Sample, age_s: float) -> str:
    """Of which seconds the state is."""
    seconds = f"mean of {sample.seconds:.0f} s" if sample.seconds else "one sample"
    left_out = sample.left_out >= ROUNDS_TO_ZERO
    without = f", without {_decimal(sample.left_out)} by pods that end" if left_out else ""
    return f"state: {seconds}, {age_s:.0f} s old{without}"


def _worst(ours: Mapping[str, float], others: Mapping[str, float]) -> str:
    """The term by which it lost most; the first of equal ones."""
    worst, most = "", float("-inf")
    for name, value in ours.items():
        if (lost := others[name] - value) > most:
            worst, most = name, lost
    return worst


def _against(best: Score, other: Score) -> str:
    """Why `other` came after `best`, in the order in which candidates are compared (`Score.rank`)."""
    mine, its = best.candidate, other.candidate
    if its.sample is None and mine.sample is not None:
        return "for want of a sample that lasts"
    if its.capacity is None and mine.capacity is not None:
        return "as it is not benchmarked"
    gap = other.load - best.load
    if gap >= ROUNDS_TO_ZERO:
        # `other` would have won without the spread term: spreading is the reason, not `pending`, where it is added.
        spread = its.all_replicas_here and not mine.all_replicas_here and gap < SPREAD_TERM
        return f"by {gap:.2f}: {'spread over nodes' if spread else _worst(best.terms, other.terms)}"
    if gap > _TIE:
        return "by less than 0.01"
    return "the tie: smaller capacity" if (its.capacity or 0) < (mine.capacity or 0) else "the tie: name"
