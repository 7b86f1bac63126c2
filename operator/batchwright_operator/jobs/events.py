"""Events about an InferenceJob, derived from the status that is written and the one to write; pure."""

from __future__ import annotations

from batchwright_operator.jobs.facts import JobFacts
from batchwright_operator.jobs.phase import JobPhase
from batchwright_operator.kube.conditions import find, holds, shorten
from batchwright_operator.kube.objects import Raw
from batchwright_operator.reconcile.decisions import Event
from batchwright_operator.reconcile.live_state import Rejection


def events_of(facts: JobFacts, phase: JobPhase, new: Raw) -> tuple[Event, ...]:
    """What is worth an Event between the written status and the new one."""
    return tuple(_events(facts, phase, new))


def _events(facts: JobFacts, phase: JobPhase, new: Raw) -> list[Event]:
    old, found = facts.old, []
    before, after = old.get("shards") or {}, new["shards"]
    if after.get("total") and not before.get("total"):
        found.append(("Planned", f"{new['items'].get('total', '?')} items in {after['total']} shards", False))
    if after["failedIndexes"] and after["failedIndexes"] != before.get("failedIndexes", ""):
        found.append(("ShardFailed", f"shards {after['failedIndexes']} failed permanently", True))
    was_suspended = holds(old.get("conditions"), "Suspended")
    if was_suspended and phase.name not in ("Suspended", "Failed", "Completed"):
        found.append(("Resumed", "spec.suspend is false again", False))
    found += _turns(old, new, phase, facts.rejection)
    return [
        Event(
            regarding=facts.job.raw,
            reason=reason,
            message=shorten(message, 1000),
            type="Warning" if warns else "Normal",
        )
        for reason, message, warns in found
    ]


def _turns(old: Raw, new: Raw, phase: JobPhase, rejection: Rejection | None) -> list[tuple[str, str, bool]]:
    """(reason, message, warning) of conditions that became True, or True for another reason."""
    found = []
    kinds = ["Complete", "Failed", "Suspended", "WaitingForModels", "DeadlineAtRisk", "Stalled"]
    if phase.waits and find(new["conditions"], "WaitingForModels").get("reason") != phase.reason:
        kinds.append("Reconciling")  # not of every start, but of what keeps it from starting
    for kind in kinds:
        before, after = find(old.get("conditions"), kind), find(new["conditions"], kind)
        same = before.get("status") == "True" and before.get("reason") == after["reason"]
        if after["status"] != "True" or same or (kind == "Stalled" and holds(new["conditions"], "Failed")):
            continue
        if rejection is not None and after["reason"] == rejection.reason:  # it has its own Event
            continue
        warns = kind in ("Failed", "DeadlineAtRisk", "Stalled", "Reconciling")
        own = str(after["reason"])
        reason = {"Complete": "Completed", "Stalled": own, "Reconciling": own}.get(kind, kind)
        found.append((reason, f"{after['reason']}: {after['message']}", warns))
    return found
