"""The decision about an object whose spec cannot be parsed, the same for both kinds; pure."""

from __future__ import annotations

from collections.abc import Mapping

from batchwright_operator.api.invalid_spec import InvalidSpec
from batchwright_operator.kube.conditions import Condition, Truth, find, render
from batchwright_operator.kube.objects import Raw, Resource
from batchwright_operator.reconcile.decisions import Decision, Event, StatusWrite

REASON = "InvalidSpec"


def invalid_spec(
    resource: Resource, raw: Raw, error: InvalidSpec, *, conditions: Mapping[str, Truth], now: float
) -> Decision:
    """The status says what is wrong; everything else is left as it is, since what runs may well be right.

    `conditions`: the value of every condition of this kind.
    """
    old: Raw = raw.get("status") or {}
    generation = int(raw["metadata"].get("generation", 0))
    wanted = [
        Condition(type=kind, status=value, reason=REASON, message="" if value == "Unknown" else str(error))
        for kind, value in conditions.items()
    ]
    rendered = render(wanted, old.get("conditions") or (), generation=generation, now=now)
    new = {**old, "observedGeneration": generation, "conditions": rendered, "summary": {"reason": REASON}}
    if new == old:
        return Decision()
    reported = find(old.get("conditions"), "Stalled").get("reason") == REASON
    event = Event(regarding=raw, reason=REASON, message=str(error)[:1000], type="Warning")
    return Decision(
        status=StatusWrite(resource=resource, regarding=raw, status=new), events=() if reported else (event,)
    )
