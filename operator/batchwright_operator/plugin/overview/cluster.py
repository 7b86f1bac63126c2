"""The whole overview of a cluster; pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import unix
from batchwright_operator.placement import receipts
from batchwright_operator.plugin.overview.deployments import deployments
from batchwright_operator.plugin.overview.facts import ClusterFacts
from batchwright_operator.plugin.overview.findings import findings
from batchwright_operator.plugin.overview.jobs import jobs
from batchwright_operator.plugin.overview.processors import processors
from batchwright_worker.dashboard.overview import ChangeView, Finding, Level, Overview, WaitingView, worst

MOST_FINDINGS: Final = 50
MOST_WAITING: Final = 100
MOST_CHANGES: Final = 200


def overview(facts: ClusterFacts) -> Overview:
    """What a page draws of it."""
    shown, served, running = processors(facts), deployments(facts), jobs(facts)
    waiting = _waiting(facts.pods)
    found = findings(facts, shown, waiting)
    level = worst([one.level for one in found], default="ok" if served or running else "idle")
    return Overview(
        source="cluster",
        title=facts.title,
        time=facts.now,
        level=level,
        headline=headline(found, level, empty=not served and not running),
        notes=facts.unseen,
        findings=found[:MOST_FINDINGS],
        findings_left_out=max(0, len(found) - MOST_FINDINGS),
        processors=shown,
        deployments=served,
        jobs=running,
        waiting=waiting[:MOST_WAITING],
        waiting_left_out=max(0, len(waiting) - MOST_WAITING),
        changes=changes(facts.events),
    )


def headline(found: Sequence[Finding], level: Level, *, empty: bool) -> str:
    """One line for the whole system."""
    errors = sum(one.level == "error" for one in found)
    warnings = sum(one.level == "warning" for one in found)
    if errors or warnings:
        parts = [f"{errors} to act on"] * bool(errors) + [f"{warnings} to look at"] * bool(warnings)
        return ", ".join(parts)
    if empty:
        return "Nothing is deployed yet"
    return "All is well, something is on its way" if level == "busy" else "All is well"


def _waiting(pods: Sequence[Raw]) -> list[WaitingView]:
    """Pods without a place, those that wait longest first."""
    found = []
    for pod in pods:
        reason = receipts.pending_reason(pod)
        if reason is not None and not (pod.get("spec") or {}).get("nodeName"):
            metadata = pod["metadata"]
            found.append(
                WaitingView(
                    namespace=str(metadata.get("namespace", "")),
                    name=str(metadata["name"]),
                    reason=reason.reason,
                    text=reason.message,
                    since=unix(metadata.get("creationTimestamp")),
                )
            )
    return sorted(found, key=lambda one: (one.since or 0.0, one.name))


def changes(events: Sequence[Raw]) -> list[ChangeView]:
    """Events about our own kinds, newest first."""
    found = [_change(event) for event in events]
    return sorted((one for one in found if one.at), key=lambda one: one.at, reverse=True)[:MOST_CHANGES]


def _change(event: Raw) -> ChangeView:
    about = event.get("involvedObject") or {}
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    created = event["metadata"].get("creationTimestamp")
    return ChangeView(
        at=max((found for text in (*times, created) if (found := unix(text)) is not None), default=0.0),
        about=f"{about.get('namespace', '')}/{about.get('name', '')}",
        reason=str(event.get("reason") or ""),
        text=str(event.get("message") or ""),
        warns=event.get("type") == "Warning",
        count=int(series.get("count") or event.get("count") or 1),
    )
