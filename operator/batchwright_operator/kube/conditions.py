"""Conditions as `metav1.Condition`, built whole on every pass; lastTransitionTime is kept where `status` is the same.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import rfc3339
from batchwright_worker.texts import presentable

Truth = Literal["True", "False", "Unknown"]
MESSAGE_LIMIT = 1024
"""Longest message of a condition or Event that is written; metav1.Condition allows 32768, Events 1024."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A condition as a decision wants it; `reason` is CamelCase, `message` a sentence that says what to do.

    `crds/conditions` has the schema of what is written: it also has the generation and the transition time, which
    `render` adds.
    """

    type: str
    status: Truth
    reason: str
    message: str = ""


def truth(value: bool | None) -> Truth:
    """The API's spelling of a claim: None is Unknown."""
    return "Unknown" if value is None else ("True" if value else "False")


def shorten(message: str, limit: int = MESSAGE_LIMIT) -> str:
    """The message, cut to `limit` bytes (the API server counts bytes in Events) with a sign that it was cut."""
    return presentable(message, limit)


def few(words: Sequence[str], separator: str = ", ", most: int = 5) -> str:
    """The first of them and how many more there are: lists of models or claims have hundreds."""
    more = [f"and {len(words) - most} more"] if len(words) > most else []
    return separator.join([*words[:most], *more])


def render(wanted: Iterable[Condition], written: Sequence[Raw], *, generation: int, now: float) -> list[Raw]:
    """All wanted conditions in their order; lastTransitionTime changes only when `status` does."""
    before = {str(each.get("type")): each for each in written}
    return [_one(each, before.get(each.type), generation=generation, now=now) for each in wanted]


def _one(wanted: Condition, before: Raw | None, *, generation: int, now: float) -> Raw:
    same = before is not None and before.get("status") == wanted.status and before.get("lastTransitionTime")
    return {
        "type": wanted.type,
        "status": wanted.status,
        "observedGeneration": generation,
        "lastTransitionTime": before["lastTransitionTime"] if same and before else rfc3339(now),
        "reason": wanted.reason,
        "message": shorten(wanted.message),
    }


def find(conditions: object, kind: str) -> Mapping[str, Any]:
    """The condition of this type in a raw list, or an empty mapping."""
    if isinstance(conditions, Sequence) and not isinstance(conditions, str):
        for each in conditions:
            if isinstance(each, Mapping) and each.get("type") == kind:
                return each
    return {}


def as_written(written: Mapping[str, Any]) -> Condition:
    """The condition as it is written, to be wanted again."""
    return Condition(
        type=written["type"], status=written["status"], reason=written["reason"], message=written["message"]
    )


def holds(conditions: object, kind: str) -> bool:
    """Is this condition True?"""
    return find(conditions, kind).get("status") == "True"
