"""Events about a ModelDeployment, derived from the status that is written and the one to write; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchwright_operator.deployments.facts import DeploymentFacts
from batchwright_operator.deployments.phase import DeploymentPhase
from batchwright_operator.deployments.status import by_name
from batchwright_operator.kube.conditions import find, shorten
from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import rfc3339_milli
from batchwright_operator.reconcile.decisions import Event
from batchwright_worker.api.messages import ModelState


def events_of(facts: DeploymentFacts, phase: DeploymentPhase, new: Raw) -> tuple[Event, ...]:
    """What is worth an Event between the status that is written and the new one; none twice, also after a restart,
    since both are facts of the API."""
    # A refusal has its own Event, recorded where it happened.
    turned = () if facts.rejection is not None else _condition_events(facts, phase, new)
    return (*turned, *_change_events(facts, facts.old))


def _condition_events(facts: DeploymentFacts, phase: DeploymentPhase, new: Raw) -> list[Event]:
    """One when the reason of readiness changed (a new reason is news, a new count is not), and when it has lasted for
    so long that the object is stalled."""
    old = facts.old.get("conditions")
    before, after = find(old, "Ready"), find(new.get("conditions"), "Ready")
    stalls = phase.name == "Stalled" and find(old, "Stalled").get("status") != "True"
    if before.get("reason") == after.get("reason") and before.get("status") == after.get("status") and not stalls:
        return []
    warns = phase.name == "Stalled" or phase.is_fault
    return [
        Event(
            regarding=facts.deployment.raw,
            reason=str(after["reason"]),
            message=shorten(str(after["message"]), 1000),
            type="Warning" if warns else "Normal",
        )
    ]


def _change_events(facts: DeploymentFacts, old: Raw) -> list[Event]:
    """One per change of batch size that is newer than what is written for its replica."""
    written = by_name(old.get("models"))
    replicas = by_name(old.get("replicaStatuses"), "pod")
    events = []
    for replica in facts.present:
        shown = by_name(replicas.get(replica.name, {}).get("models"))
        for model in replica.state.models if replica.state else ():
            seen = str(written.get(model.name, {}).get("lastChangeTime", ""))
            events += _of_model(facts.deployment.raw, replica.name, model, seen, shown.get(model.name, {}))
    return events


def _of_model(raw: Raw, pod: str, model: ModelState, seen: str, shown: Mapping[str, Any]) -> list[Event]:
    """`seen`: the newest change of any replica that is written. A replica whose size is not the written one has
    changed since, whatever the others did."""
    news = [change for change in model.changes if rfc3339_milli(change.time) > seen]
    if not news and model.changes and shown.get("batchSize", model.batch_size) != model.batch_size:
        news = [model.changes[-1]]
    return [
        Event(
            regarding=raw,
            reason=change.reason or "BatchSizeChanged",
            message=shorten(
                f"{model.name} in {pod}: batch size {change.from_size} -> {change.to_size}: {change.message}"
            ),
            action="Tune",
        )
        for change in news
    ]
