"""The whole status of a ModelDeployment, from facts; pure. When it is written, `status/write_policy` decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from batchwright_operator.deployments.facts import DeploymentFacts
from batchwright_operator.deployments.latency import target_met
from batchwright_operator.deployments.live_configuration import CONFIGURED, Configured, configured_condition
from batchwright_operator.deployments.phase import DeploymentPhase
from batchwright_operator.deployments.replicas import Replica
from batchwright_operator.deployments.tuning_status import most_frequent, tuning_status
from batchwright_operator.kube.conditions import Condition, as_written, few, find, render, shorten, truth
from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import rfc3339_milli, unix
from batchwright_operator.status.percentiles import percentile_ms, pool
from batchwright_worker.api.messages import ModelState, Receipt
from batchwright_worker.api.names import COMPONENT_MODEL, HTTP_PORT, LABEL_COMPONENT, LABEL_DEPLOYMENT

REPLICA_LIMIT: Final = 50
PLACEMENT_LIMIT: Final = 20
NODE_NAMES_LIMIT: Final = 3
BATCH_SIZES_LIMIT: Final = 8
"""Of more models the column would fill the screen."""
REPLICA_MODELS_LIMIT: Final = 1000
"""About 90 bytes each, and twice that in managedFields; etcd takes 1.5 MiB of an object, with its spec."""
DETAILED_MODELS_LIMIT: Final = 200
"""Of more, `tuning` is left out, which metrics have for all, and messages are short: 500 with both take 1.47 MB."""
MODEL_MESSAGE_LIMIT: Final = 300
SHORT_MESSAGE_LIMIT: Final = 100
ModelStates = Mapping[str, Sequence[ModelState]]


def status_of(
    facts: DeploymentFacts, phase: DeploymentPhase, upgrade: Condition, configuration: Configured, now: float
) -> Raw:
    """The status without `lastUpdatedTime`. What no sidecar has reported yet (the operator has just started) is kept
    from the status that is written."""
    old, present = facts.old, facts.present
    # A new leader begins with no state at all. Rendering what it has would first wipe the measured values and write
    # them again seconds later, once per object: so what is written stands until every running sidecar has reported.
    unreported = any(each.serves_state and each.state is None for each in present)
    states = states_by_model(present)
    models = _kept_models(facts, old) if unreported else _models(facts, states, old)
    keeps_configured = unreported and not configuration.behind
    wanted = [
        *_three(phase),
        _available(phase),
        _progressing(phase),
        _models_ready(facts, states, old, unreported=unreported),
        _latency(facts, states, old, unreported=unreported),
        upgrade,
        _configured(configuration, old, kept=keeps_configured),
    ]
    name, namespace = facts.deployment.name, facts.deployment.namespace
    return {
        "observedGeneration": facts.deployment.generation,
        "conditions": render(wanted, old.get("conditions") or (), generation=facts.deployment.generation, now=now),
        "replicas": len(present),
        "readyReplicas": sum(each.ready for each in present),
        "configuredReplicas": int(old.get("configuredReplicas") or 0) if keeps_configured else configuration.newest,
        "selector": f"{LABEL_DEPLOYMENT}={name},{LABEL_COMPONENT}={COMPONENT_MODEL}",
        "address": {"url": f"http://{name}.{namespace}.svc:{HTTP_PORT}"},
        "models": models,
        "replicaStatuses": _replica_statuses(present, len(models), old),
        "placements": _placements(present, old),
        "summary": _summary(phase.reason, models, present),
    }


# --- conditions


def _three(phase: DeploymentPhase) -> list[Condition]:
    """Exactly one of Ready, Reconciling and Stalled is True: kstatus, by which Flux and others wait for an object,
    takes the first of Reconciling (in progress) and Stalled (failed) that is True before it looks at Ready."""
    return [
        Condition(type=kind, status=truth(kind == phase.name), reason=phase.reason, message=phase.message)
        for kind in ("Ready", "Reconciling", "Stalled")
    ]


def _available(phase: DeploymentPhase) -> Condition:
    """In the words of a Deployment."""
    reason = "MinimumReplicasAvailable" if phase.available else "MinimumReplicasUnavailable"
    message = f"{phase.ready} of {phase.wanted} ready, {phase.needed} needed"
    return Condition(type="Available", status=truth(phase.available), reason=reason, message=message)


def _progressing(phase: DeploymentPhase) -> Condition:
    """True while it is on its way and from then on when it is there, as of a Deployment."""
    kind = "Progressing"
    if phase.name == "Ready":
        return Condition(type=kind, status="True", reason="RolledOut", message="what the spec says has been rolled out")
    reason = phase.stalled_by or phase.reason
    return Condition(type=kind, status=truth(not phase.stalled_by), reason=reason, message=phase.message)


def _models_ready(facts: DeploymentFacts, states: ModelStates, old: Raw, *, unreported: bool) -> Condition:
    """Can every model be called on every pod that says something of it? Unknown of a model that no pod names."""
    kind = "ModelsReady"
    written = find(old.get("conditions"), kind)
    if unreported and written:
        return as_written(written)
    named = [(model.name, states.get(model.name, ())) for model in facts.deployment.spec.models]
    failed = [f"{name}: {text}" for name, of_model in named if (text := _failure(of_model))]
    if failed:
        return Condition(type=kind, status="False", reason="ModelLoadFailed", message=few(failed, "; "))
    if loading := [name for name, of_model in named if any(state.state == "Loading" for state in of_model)]:
        return Condition(type=kind, status="False", reason="ModelLoading", message=f"loading {few(loading)}")
    if not any(of_model for _, of_model in named):
        return Condition(type=kind, status="Unknown", reason="NoReplica", message="no pod has reported yet")
    if unnamed := [name for name, of_model in named if not of_model]:
        return Condition(
            type=kind, status="Unknown", reason="NotReported", message=f"no pod has reported of {few(unnamed)}"
        )
    return Condition(type=kind, status="True", reason="AllModelsReady", message="every model can be called")


def _configured(found: Configured, old: Raw, *, kept: bool) -> Condition:
    written = find(old.get("conditions"), CONFIGURED)
    return as_written(written) if kept and written else configured_condition(found)


def _failure(states: Sequence[ModelState]) -> str:
    failed = [state for state in states if state.state == "Failed"]
    if not failed:
        return ""
    where = f" (in {len(failed)} of {len(states)} pods)" if len(states) > 1 else ""
    return f"{shorten(failed[0].message, MODEL_MESSAGE_LIMIT)}{where}"


def _latency(facts: DeploymentFacts, states: ModelStates, old: Raw, *, unreported: bool) -> Condition:
    """Is the latency target of every model met? Without measured values in the text: they are in `models`."""
    targets = {
        model.name: model.targets.latency_milliseconds
        for model in facts.deployment.spec.models
        if model.targets.latency_milliseconds is not None
    }
    kind, generation = "LatencyTargetMet", facts.deployment.generation
    if not targets:
        return Condition(type=kind, status="Unknown", reason="NoTarget", message="no model has a latency target")
    written = find(old.get("conditions"), kind)
    if unreported and written:
        return as_written(written)
    known = written.get("status") in ("True", "False") and written.get("observedGeneration") == generation
    before = written.get("status") == "True" if known else None
    answers = {name: target_met(states.get(name, ()), target, before=before) for name, target in targets.items()}
    if all(answer is None for answer in answers.values()):
        if known:
            return as_written(written)  # the last answer stands until there is another
        return Condition(type=kind, status="Unknown", reason="NoTraffic", message="nothing was measured lately")
    if missed := [f"{name} misses {targets[name]} ms" for name, answer in answers.items() if answer is False]:
        return Condition(type=kind, status="False", reason="TargetMissed", message=few(missed, "; "))
    text = "95 of 100 requests were in time, of every model that had any when it was last measured"
    return Condition(type=kind, status="True", reason="TargetMet", message=text)


# --- models


def states_by_model(replicas: Sequence[Replica]) -> ModelStates:
    """What the replicas say of each model."""
    found: dict[str, list[ModelState]] = {}
    for each in replicas:
        for state in each.state.models if each.state else ():
            found.setdefault(state.name, []).append(state)
    return found


def by_name(entries: object, key: str = "name") -> dict[str, Raw]:
    """The entries of a list in a status by their key; nothing for what is no list."""
    return {str(each[key]): each for each in entries} if isinstance(entries, list) else {}


def _kept_models(facts: DeploymentFacts, old: Raw) -> list[Raw]:
    written = by_name(old.get("models"))
    return [written.get(model.name, {"name": model.name}) for model in facts.deployment.spec.models]


def _models(facts: DeploymentFacts, states: ModelStates, old: Raw) -> list[Raw]:
    written, named = by_name(old.get("models")), facts.deployment.spec.models
    detailed = len(named) <= DETAILED_MODELS_LIMIT
    return [
        _model(model.name, states.get(model.name, ()), written.get(model.name, {}), detailed=detailed)
        for model in named
    ]


def _model(name: str, states: Sequence[ModelState], old: Raw, *, detailed: bool) -> Raw:
    """One model over all replicas: percentiles from the pooled histogram, the batch size that most replicas have."""
    kept: Raw = {key: old[key] for key in ("lastChangeTime", "lastChangeReason", "lastChangeRule") if key in old}
    if not states:
        return {"name": name, **kept}
    sizes = [state.batch_size for state in states]
    trends = [(trend_of(state), state.trend_z) for state in states]
    trend = most_frequent([each for each, _ in trends])
    zs = [z for each, z in trends if each == trend]
    body = {
        "name": name,
        "readyReplicas": sum(state.state == "Ready" for state in states),
        "batchSize": most_frequent(sizes),
        "batchSizeMin": min(sizes),
        "batchSizeMax": max(sizes),
        "trend": trend,
        "trendZ": f"{sum(zs) / len(zs) + 0.0:.2f}",
        "throughput": round(sum(state.throughput for state in states)),
        "queueLength": sum(state.queue_length for state in states),
    }
    ready = [state for state in states if state.state == "Ready"]
    if modes := [state.mode for state in ready if state.mode in ("Rows", "Whole")]:
        body["mode"] = most_frequent(modes)
    told = [state.tuning for state in states if state.tuning is not None]
    if told and detailed:
        body["tuning"] = tuning_status(told, searching=any(state.searching for state in states))
    cut = next((state.layerwise for state in states if state.layerwise), "")
    layers: Raw = {"layerwise": cut} if cut else {}
    if message := _failure(states) or next((state.message for state in ready if state.message), ""):
        body["message"] = message if detailed else shorten(message, SHORT_MESSAGE_LIMIT)
    return body | layers | _latencies(states, old) | kept | _last_change(states, old)


def trend_of(state: ModelState) -> str:
    """The trend in the API's words."""
    if state.trend in ("Rising", "Falling", "Flat"):
        return state.trend
    # The operator is upgraded before the replicas: until a rollout has replaced them, sidecars of 0.1 say Up and Down,
    # and a word that the CRD does not know would make the API server refuse the whole status.
    return {"Up": "Rising", "Down": "Falling"}.get(state.trend, "Flat")


def _latencies(states: Sequence[ModelState], old: Raw) -> Raw:
    """Percentiles of the last window; where nothing ended in it, the ones measured last."""
    counts = pool(state.latency_counts for state in states)
    shares = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
    found = {name: percentile_ms(counts, share) for name, share in shares.items()}
    if found["p50"] is not None:
        return {"latencyMilliseconds": found}
    return {name: old[name] for name in ("latencyMilliseconds",) if name in old}


def _last_change(states: Sequence[ModelState], old: Raw) -> Raw:
    changes = [change for state in states for change in state.changes]
    newest = max(changes, key=lambda change: change.time, default=None)
    if newest is None or rfc3339_milli(newest.time) <= str(old.get("lastChangeTime", "")):
        return {}
    rule: Raw = {"lastChangeRule": newest.rule} if newest.rule else {}
    return {"lastChangeTime": rfc3339_milli(newest.time), "lastChangeReason": newest.reason} | rule


# --- replicas, placements, summary


def _replica_statuses(present: Sequence[Replica], models: int, old: Raw) -> list[Raw]:
    written = by_name(old.get("replicaStatuses"), "pod")
    shown = present[:REPLICA_LIMIT]
    each_model = len(shown) * models <= REPLICA_MODELS_LIMIT
    return [_replica_status(each, written.get(each.name, {}), each_model=each_model) for each in shown]


def _replica_status(replica: Replica, old: Raw, *, each_model: bool) -> Raw:
    body: Raw = {"pod": replica.name, "node": replica.node, "processor": replica.kind, "ready": replica.ready}
    if replica.problem is not None:
        body["message"] = f"{replica.problem.reason}: {shorten(replica.problem.message, 300)}"
    if not each_model:
        return body
    if replica.state is None:
        kept = old.get("models") if replica.serves_state else None
        return body | ({"models": kept} if kept else {})
    written = by_name(old.get("models"))
    return body | {"models": [_replica_model(state, written.get(state.name, {})) for state in replica.state.models]}


def _replica_model(state: ModelState, old: Raw) -> Raw:
    p95 = percentile_ms(pool([state.latency_counts]), 0.95)
    p95 = old.get("p95Milliseconds") if p95 is None else p95
    body = {"name": state.name, "batchSize": state.batch_size, "throughput": round(state.throughput)}
    return body if p95 is None else body | {"p95Milliseconds": p95}


def _placements(present: Sequence[Replica], old: Raw) -> list[Raw]:
    """The newest receipts, each with what the placed pod really does."""
    placed = [each for each in present if each.receipt is not None]
    placed.sort(key=lambda each: (_decided(each), each.name), reverse=True)
    written = by_name(old.get("placements"), "pod")
    return [_placement(each, written.get(each.name, {})) for each in placed[:PLACEMENT_LIMIT]]


def _decided(replica: Replica) -> str:
    return replica.receipt.decided_time if replica.receipt else ""


def _placement(replica: Replica, old: Raw) -> Raw:
    receipt = replica.receipt
    assert receipt is not None
    body: Raw = {
        "pod": replica.name,
        "node": replica.node or receipt.node,
        "processor": receipt.processor,
        "load": receipt.load,
        "terms": dict(receipt.terms),
        "runnersUp": [
            {"node": each.node, "processor": each.processor, "load": each.load} for each in receipt.runners_up
        ],
        "reason": shorten(_why(replica, receipt)),
    }
    if unix(receipt.decided_time) is not None:
        body["decidedTime"] = receipt.decided_time
    if receipt.predicted_throughput is not None:
        body["predictedThroughput"] = round(receipt.predicted_throughput)
    if replica.state is not None:
        body["observedThroughput"] = round(sum(model.throughput for model in replica.state.models))
    elif replica.serves_state and "observedThroughput" in old:
        body["observedThroughput"] = old["observedThroughput"]
    return body


def _why(replica: Replica, receipt: Receipt) -> str:
    """The receipt's own words. A node that was full when kube-scheduler looked at it is not where the pod is."""
    if receipt.node and replica.node and receipt.node != replica.node:
        return f"{replica.node} by the cluster's scheduler, as it did not fit on the node chosen; {receipt.reason}"
    return receipt.reason


def _summary(reason: str, models: Sequence[Raw], present: Sequence[Replica]) -> Raw:
    """Scalars for printer columns; batch sizes in the order of the models, the largest p95, all rows per second."""
    sizes = [str(model["batchSize"]) for model in models if "batchSize" in model]
    slow = [model["latencyMilliseconds"]["p95"] for model in models if "latencyMilliseconds" in model]
    rates = [model["throughput"] for model in models if "throughput" in model]
    nodes = sorted({each.node for each in present if each.node})
    summary: Raw = {"reason": reason, "nodes": _node_names(nodes)}
    if sizes:
        summary["batch"] = ",".join(sizes) if len(sizes) <= BATCH_SIZES_LIMIT else _span(sizes)
    if slow:
        summary["p95"] = max(slow)
    if rates:
        summary["throughput"] = sum(rates)
    return summary


def _span(sizes: Sequence[str]) -> str:
    smallest, largest = min(map(int, sizes)), max(map(int, sizes))
    return str(smallest) if smallest == largest else f"{smallest}-{largest}"


def _node_names(nodes: Sequence[str]) -> str:
    return ",".join(nodes) if len(nodes) <= NODE_NAMES_LIMIT else f"{len(nodes)} nodes"
