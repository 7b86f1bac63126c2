"""InferenceJobs with shards, rate and time to the end; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchwright_operator.kube.conditions import find, holds
from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import unix
from batchwright_operator.plugin.overview.facts import ClusterFacts
from batchwright_operator.plugin.overview.numbers import number, whole
from batchwright_worker.dashboard.overview import FailureView, JobView, Level, TaskView, ranges


def jobs(facts: ClusterFacts) -> list[JobView]:
    """Those under way first, then the newest."""
    views = [(_order(raw), _view(raw)) for raw in facts.jobs]
    return [view for _, view in sorted(views, key=lambda one: one[0])]


def _order(raw: Raw) -> tuple[bool, float, str]:
    conditions = (raw.get("status") or {}).get("conditions")
    ended = holds(conditions, "Complete") or holds(conditions, "Failed")
    created = unix(raw["metadata"].get("creationTimestamp")) or 0.0
    return ended, -created, str(raw["metadata"]["name"])


def _view(raw: Raw) -> JobView:
    status, spec, metadata = raw.get("status") or {}, raw.get("spec") or {}, raw["metadata"]
    items, shards = status.get("items") or {}, status.get("shards") or {}
    outcome = _outcome(status.get("conditions"))
    namespace, name = str(metadata.get("namespace", "")), str(metadata["name"])
    failed = find(status.get("conditions"), "Failed")
    return JobView(
        id=f"{namespace}/{name}",
        namespace=namespace,
        name=name,
        level=level(raw),
        reason=str(outcome.get("reason") or "NotSeenYet"),
        message=str(outcome.get("message") or "the operator has not looked at it yet"),
        total=whole(items.get("total")),
        succeeded=whole(items.get("succeeded")) or 0,
        failed=whole(items.get("failed")) or 0,
        shards=whole(shards.get("total")),
        shards_done=ranges(str(shards.get("completedIndexes") or "")),
        shards_failed=ranges(str(shards.get("failedIndexes") or "")),
        rate=number(status.get("throughput")),
        eta_s=number(status.get("estimatedRemainingSeconds")),
        started_at=unix(status.get("startTime")),
        ended_at=unix(status.get("completionTime"))
        or (unix(failed.get("lastTransitionTime")) if failed.get("status") == "True" else None),
        output=str((spec.get("output") or {}).get("uri") or ""),
        tasks=[_task(each) for each in status.get("tasks") or ()],
        failures=[_failure(each) for each in status.get("failures") or ()],
    )


def _outcome(conditions: object) -> Mapping[str, Any]:
    """The condition to read first: they all say the same reason, but where models are missing."""
    waiting = find(conditions, "WaitingForModels")
    ended = holds(conditions, "Complete") or holds(conditions, "Failed") or holds(conditions, "Suspended")
    return waiting if waiting.get("status") == "True" and not ended else find(conditions, "Complete")


def level(raw: Raw) -> Level:
    """error: failed, or only a person helps; warning: it waits, is late, or items failed; busy: it is under way."""
    status = raw.get("status") or {}
    conditions = status.get("conditions")
    if holds(conditions, "Failed") or holds(conditions, "Stalled"):
        return "error"
    if holds(conditions, "Suspended"):
        return "idle"
    waits = holds(conditions, "WaitingForModels") or holds(conditions, "DeadlineAtRisk")
    if waits or whole((status.get("items") or {}).get("failed")):
        return "warning"
    return "ok" if holds(conditions, "Complete") else "busy"


def _task(each: Mapping[str, Any]) -> TaskView:
    return TaskView(
        name=str(each.get("name")),
        kind=str(each.get("kind") or ""),
        succeeded=whole(each.get("succeeded")) or 0,
        failed=whole(each.get("failed")) or 0,
        mean_batch=number(each.get("meanBatchSize")),
        p95=number(each.get("p95Milliseconds")),
    )


def _failure(each: Mapping[str, Any]) -> FailureView:
    return FailureView(
        item=str(each.get("item") or ""),
        task=str(each.get("task") or ""),
        message=str(each.get("message") or ""),
        shard=whole(each.get("shard")),
    )
