"""A ModelDeployment as gauges of the operator's /metrics: what an autoscaler scales by, and what alerts ask; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from batchwright_operator.deployments.facts import DeploymentFacts
from batchwright_operator.deployments.phase import DeploymentPhase
from batchwright_operator.kube.conditions import Condition
from batchwright_operator.status.percentiles import percentile_ms, pool
from batchwright_worker.api.messages import SidecarState

PREFIX = "batchwright_modeldeployment_"


def metrics_of(facts: DeploymentFacts, phase: DeploymentPhase, upgrade: Condition) -> dict[str, float]:
    """`name{labels}` -> value, of all replicas together. What no replica reports is missing, not 0: an autoscaler that
    reads 0 would remove replicas because the operator has just started."""
    labels = f'{{namespace="{facts.deployment.namespace}",name="{facts.deployment.name}"}}'
    values = (
        dict(_counts(facts, phase))
        | dict(_upgrade(upgrade))
        | dict(_reported([each.state for each in facts.present if each.state]))
    )
    return {f"{PREFIX}{name}{labels}": value for name, value in values.items()}


def _counts(facts: DeploymentFacts, phase: DeploymentPhase) -> Iterator[tuple[str, float]]:
    yield "replicas_wanted", float(phase.wanted)
    yield "replicas_ready", float(sum(each.ready for each in facts.present))
    yield "available", float(phase.available)
    yield "stalled", float(phase.name == "Stalled")


def _upgrade(upgrade: Condition) -> Iterator[tuple[str, float]]:
    """Of its condition UpToDate."""
    yield "outdated", float(upgrade.status == "False")
    yield "upgrading", float(upgrade.reason == "Upgrading")


def _reported(states: Sequence[SidecarState]) -> Iterator[tuple[str, float]]:
    if not states:
        return
    models = [model for state in states for model in state.models]
    yield "queue_length", float(sum(model.queue_length for model in models))
    yield "throughput_rows_per_second", sum(model.throughput for model in models)
    # The worst model: a target is one of each model, and the mean over two of them is that of none.
    names = {model.name for model in models}
    pooled = [pool(each.latency_counts for each in models if each.name == name) for name in names]
    slow = [found for counts in pooled if (found := percentile_ms(counts, 0.95)) is not None]
    if slow:
        yield "latency_p95_seconds", max(slow) / 1000
    if busy := [device.busy_ratio for state in states for device in state.devices]:
        yield "utilization_ratio", sum(busy) / len(busy)
