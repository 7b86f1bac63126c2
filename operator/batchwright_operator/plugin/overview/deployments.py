"""ModelDeployments with their models, and pods with their receipts; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchwright_operator.deployments.metrics import PREFIX
from batchwright_operator.kube.conditions import find, holds
from batchwright_operator.kube.metadata import is_leaving
from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import unix
from batchwright_operator.placement import receipts
from batchwright_operator.plugin.overview.facts import ClusterFacts, gauges_of
from batchwright_operator.plugin.overview.numbers import number, whole
from batchwright_worker.api.messages import Receipt
from batchwright_worker.api.names import ANNOTATION_KIND, LABEL_DEPLOYMENT
from batchwright_worker.dashboard.overview import DeploymentView, Level, PodView, ReceiptView, ServedModelView

Gauge = Mapping[str, float]


def deployments(facts: ClusterFacts) -> list[DeploymentView]:
    """By namespace and name."""
    live = gauges_of(facts.gauges, PREFIX)
    pods: dict[tuple[str, str], list[Raw]] = {}
    for pod in facts.pods:
        labels = pod["metadata"].get("labels") or {}
        if not is_leaving(pod):
            pods.setdefault((pod["metadata"].get("namespace", ""), labels.get(LABEL_DEPLOYMENT, "")), []).append(pod)
    found = [(_at(raw), raw) for raw in facts.deployments]
    return [_view(at, raw, pods.get(at, []), live.get(at, {})) for at, raw in sorted(found, key=lambda one: one[0])]


def _at(raw: Raw) -> tuple[str, str]:
    return str(raw["metadata"].get("namespace", "")), str(raw["metadata"]["name"])


def _view(at: tuple[str, str], raw: Raw, pods: list[Raw], live: Gauge) -> DeploymentView:
    status, spec = raw.get("status") or {}, raw.get("spec") or {}
    ready = find(status.get("conditions"), "Ready")
    p95 = live.get("latency_p95_seconds")
    return DeploymentView(
        id="/".join(at),
        namespace=at[0],
        name=at[1],
        level=level(raw),
        reason=str(ready.get("reason") or (status.get("summary") or {}).get("reason") or "NotSeenYet"),
        message=str(ready.get("message") or "the operator has not looked at it yet"),
        wanted=whole(spec.get("replicas"), 1) or 0,
        ready=whole(status.get("readyReplicas")) or 0,
        url=str((status.get("address") or {}).get("url") or ""),
        models=_models(spec, status),
        pods=_pods(status, pods),
        live_queue=live.get("queue_length"),
        live_p95=None if p95 is None else p95 * 1000,
        live_throughput=live.get("throughput_rows_per_second"),
        live_utilization=live.get("utilization_ratio"),
    )


def level(raw: Raw) -> Level:
    """error: nobody serves, or only another spec helps; warning: a target is missed, or fewer serve than are wanted."""
    status, wanted = raw.get("status") or {}, whole((raw.get("spec") or {}).get("replicas"), 1)
    conditions = status.get("conditions")
    if wanted == 0:
        return "idle"
    if holds(conditions, "Stalled"):
        return "error"
    if not holds(conditions, "Ready"):
        return "busy"
    missed = find(conditions, "LatencyTargetMet").get("status") == "False"
    failed = find(conditions, "ModelsReady").get("reason") == "ModelLoadFailed"
    fewer = (whole(status.get("readyReplicas")) or 0) < (wanted or 0)
    return "warning" if missed or failed or fewer else "ok"


# --- models


def _models(spec: Mapping[str, Any], status: Mapping[str, Any]) -> list[ServedModelView]:
    written = {str(each.get("name")): each for each in status.get("models") or ()}
    return [_model(each, written.get(str(each.get("name")), {})) for each in spec.get("models") or ()]


def _model(wanted: Mapping[str, Any], written: Mapping[str, Any]) -> ServedModelView:
    targets, tuning = wanted.get("targets") or {}, written.get("tuning") or {}
    latency, fit = written.get("latencyMilliseconds") or {}, tuning.get("fit") or {}
    return ServedModelView(
        name=str(wanted.get("name")),
        ready=whole(written.get("readyReplicas")) or 0,
        message=str(written.get("message") or ""),
        mode=str(written.get("mode") or ""),
        batch_size=whole(written.get("batchSize")),
        batch_min=whole(written.get("batchSizeMin")),
        batch_max=whole(written.get("batchSizeMax")),
        trend=str(written.get("trend") or ""),
        p50=number(latency.get("p50")),
        p95=number(latency.get("p95")),
        p99=number(latency.get("p99")),
        target=number(targets.get("latencyMilliseconds")),
        target_throughput=number(targets.get("throughput")),
        throughput=number(written.get("throughput")),
        queue=whole(written.get("queueLength")),
        searching=tuning.get("searching"),
        held_because=str(tuning.get("heldBecause") or ""),
        held_by=str(tuning.get("heldBy") or ""),
        bound_by=str(tuning.get("boundBy") or ""),
        limit=whole(tuning.get("rowsLimit")),
        knee=whole(fit.get("knee")),
        fixed_ms=number(fit.get("fixedMilliseconds")),
        per_row_ms=number(fit.get("perRowMilliseconds")),
        possible=number(tuning.get("possibleThroughput")),
        changed_at=unix(written.get("lastChangeTime")),
        changed_because=str(written.get("lastChangeReason") or ""),
        changed_by=str(written.get("lastChangeRule") or ""),
    )


# --- pods


def _pods(status: Mapping[str, Any], pods: list[Raw]) -> list[PodView]:
    """From the pods themselves; where they may not be listed, from the status, which has at most 50."""
    said = {str(each.get("pod")): each for each in status.get("replicaStatuses") or ()}
    placed = {str(each.get("pod")): each for each in status.get("placements") or ()}
    if pods:
        named = [(str(pod["metadata"]["name"]), pod) for pod in pods]
        views = [_pod(pod, said.get(name, {}), placed.get(name, {})) for name, pod in named]
    else:
        views = [_told(each, placed.get(name, {})) for name, each in said.items()]
    return sorted(views, key=lambda one: one.name)


def _pod(pod: Raw, said: Mapping[str, Any], placed: Mapping[str, Any]) -> PodView:
    receipt, waiting = receipts.parse(pod), receipts.pending_reason(pod)
    annotations = pod["metadata"].get("annotations") or {}
    message = str(said.get("message") or "") or ("" if waiting is None else waiting.render())
    return PodView(
        name=str(pod["metadata"]["name"]),
        node=str((pod.get("spec") or {}).get("nodeName") or (receipt.node if receipt else "")),
        processor=str(annotations.get(ANNOTATION_KIND) or (receipt.processor if receipt else "")),
        ready=bool(said.get("ready", holds((pod.get("status") or {}).get("conditions"), "Ready"))),
        message=message,
        receipt=None if receipt is None else _receipt(receipt, number(placed.get("observedThroughput"))),
    )


def _receipt(receipt: Receipt, observed: float | None) -> ReceiptView:
    return ReceiptView(
        load=number(receipt.load),
        terms=_terms(receipt.terms),
        runners_up=[(each.node, each.processor, number(each.load)) for each in receipt.runners_up],
        reason=receipts.describe(receipt),
        policy=receipt.policy,
        predicted=receipt.predicted_throughput,
        observed=observed,
        decided_at=unix(receipt.decided_time),
    )


def _terms(texts: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, text in texts.items() if (value := number(text)) is not None}


def _told(said: Mapping[str, Any], placed: Mapping[str, Any]) -> PodView:
    """A pod as the status tells of it."""
    receipt = None
    if placed:
        losers = placed.get("runnersUp") or ()
        receipt = ReceiptView(
            load=number(placed.get("load")),
            terms=_terms(placed.get("terms") or {}),
            runners_up=[(str(e.get("node")), str(e.get("processor") or ""), number(e.get("load"))) for e in losers],
            reason=str(placed.get("reason") or ""),
            predicted=number(placed.get("predictedThroughput")),
            observed=number(placed.get("observedThroughput")),
            decided_at=unix(placed.get("decidedTime")),
        )
    return PodView(
        name=str(said.get("pod")),
        node=str(said.get("node") or ""),
        processor=str(said.get("processor") or ""),
        ready=bool(said.get("ready")),
        message=str(said.get("message") or ""),
        receipt=receipt,
    )
