"""kstatus as Flux reads it: a reference reader of the rules in guide/platform.md, for tests."""

from __future__ import annotations

from typing import Any, Literal

Verdict = Literal["Terminating", "InProgress", "Failed", "Current"]


def kstatus(obj: dict[str, Any]) -> Verdict:
    """In this order: deletion, observedGeneration, Reconciling and Stalled (first True in list order), Ready."""
    metadata, status = obj["metadata"], obj.get("status") or {}
    if metadata.get("deletionTimestamp"):
        return "Terminating"
    if "observedGeneration" in status and status["observedGeneration"] != metadata.get("generation"):
        return "InProgress"
    conditions = status.get("conditions") or []
    for each in conditions:
        if each["type"] in ("Reconciling", "Stalled") and each["status"] == "True":
            return "InProgress" if each["type"] == "Reconciling" else "Failed"
    for each in conditions:
        if each["type"] == "Ready":
            return "Current" if each["status"] == "True" else "InProgress"
    return "Current"
