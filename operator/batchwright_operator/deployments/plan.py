"""What the children of a ModelDeployment should be, and the actions that make them so; pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batchwright_operator.api.eligible_kinds import EligibleKinds
from batchwright_operator.api.model_deployment import ModelDeployment
from batchwright_operator.deployments.children import (
    ANNOTATION_NO_FIT,
    COMPONENT_CONFIG,
    config_map,
    config_name,
    control_secret,
    deployment,
    disruption_budget,
    network_policy,
    own_labels,
    services,
)
from batchwright_operator.deployments.kind_split import RETRY_S, SettledSplit, Supply, split
from batchwright_operator.deployments.pod_template import pod_template, strategy_of
from batchwright_operator.deployments.replicas import Replica, config_of
from batchwright_operator.deployments.rollout import ANNOTATION_REVISION, rollout
from batchwright_operator.kube.metadata import is_leaving
from batchwright_operator.kube.objects import (
    CONFIG_MAP,
    DEPLOYMENT,
    NETWORK_POLICY,
    PDB,
    SECRET,
    SERVICE,
    Raw,
    Resource,
)
from batchwright_operator.kube.times import rfc3339, unix
from batchwright_operator.processors.processor import processors_of
from batchwright_operator.reconcile.decisions import Action, Apply, Delete
from batchwright_operator.rendering.objects import digest
from batchwright_operator.settings import Settings
from batchwright_worker.api.names import ANNOTATION_KIND, COMPONENT_MODEL, KIND_CPU, LABEL_COMPONENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Children:
    """What there is: the owned Deployments and configuration ConfigMaps, and the replicas."""

    deployments: tuple[Raw, ...] = ()
    config_maps: tuple[Raw, ...] = ()
    replicas: tuple[Replica, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """Slots per kind, and the kinds that had no place lately (kind -> when, and its processors then)."""

    slots: dict[str, int]
    no_fit: dict[str, Raw]


# --- how many of which kind


def plan_slots(
    wanted: ModelDeployment,
    offer: EligibleKinds,
    children: Children,
    profiles: Sequence[Raw],
    now: float,
    no_fit_s: float,
) -> ModelPlan:
    """Method of `split` on what is observed; remembers which kinds had no place, so that slots do not wander."""
    processors = {kind: _processors(profiles, kind) for kind in offer.kinds}
    counts = current_slots(children.deployments)
    notes = _notes(children.deployments)
    held = {
        kind: SettledSplit(
            count=counts.get(kind, 0),
            stuck=_stuck(kind, counts.get(kind, 0), children.replicas, now, no_fit_s),
            excluded=_is_excluded(notes.get(kind), processors[kind], now),
        )
        for kind in offer.kinds
    }
    supplies = {plan.kind: _supply(processors[plan.kind], plan.kind, plan.runtime.count) for plan in offer.plans}
    slots = split(wanted.spec.replicas, offer.kinds, supplies, held)
    moved = {kind for kind in offer.kinds if held[kind].stuck and slots[kind] < held[kind].count}
    fresh = {kind: {"since": rfc3339(now), "processors": digest(processors[kind])} for kind in moved}
    kept = {kind: note for kind, note in notes.items() if kind in offer.kinds}
    return ModelPlan(slots=slots, no_fit=kept | fresh)


def current_slots(deployments: Sequence[Raw]) -> dict[str, int]:
    """Replicas asked for now, by kind."""
    return {_kind_of(each): int(each["spec"].get("replicas", 0)) for each in deployments}


def _kind_of(obj: Raw) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(ANNOTATION_KIND, ""))


def _stuck(kind: str, count: int, replicas: Sequence[Replica], now: float, no_fit_s: float) -> int:
    """Slots whose pod waits for a place too long; pods beyond the slots are on their way out, waiting ones first."""
    present = [each for each in replicas if each.kind == kind and not each.terminating]
    late = sum(each.waits_for_place and now - each.created >= no_fit_s for each in present)
    return max(0, late - max(0, len(present) - count))


def _notes(deployments: Sequence[Raw]) -> dict[str, Raw]:
    """The newest note of every kind that had no place, from all Deployments."""
    merged: dict[str, Raw] = {}
    for each in deployments:
        for kind, note in _json(each["metadata"].get("annotations") or {}).items():
            if kind not in merged or str(note.get("since", "")) > str(merged[kind].get("since", "")):
                merged[kind] = note
    return merged


def _json(annotations: Mapping[str, Any]) -> dict[str, Raw]:
    try:
        found = json.loads(annotations.get(ANNOTATION_NO_FIT, "{}"))
    except ValueError:
        return {}
    return {kind: note for kind, note in found.items() if isinstance(note, dict)} if isinstance(found, dict) else {}


def _is_excluded(note: Raw | None, processors: Sequence[Any], now: float) -> bool:
    if note is None or note.get("processors") != digest(processors):
        return False
    since = unix(note.get("since"))
    return since is not None and now - since < RETRY_S


def _processors(profiles: Sequence[Raw], kind: str) -> list[tuple[str, int, float]]:
    """(node, devices, images/s of all of them) of every processor of this kind, by node."""
    return sorted(
        (profile["metadata"]["name"], len(found.devices), (found.capacity or 0.0) * max(1, len(found.devices)))
        for profile in profiles
        if (found := processors_of(profile).get(kind)) is not None
    )


def _supply(processors: Sequence[tuple[str, int, float]], kind: str, count: int) -> Supply:
    known = kind != KIND_CPU and any(devices for _, devices, _ in processors)
    return Supply(
        capacity=sum(capacity for _, _, capacity in processors),
        slots=sum(devices // count for _, devices, _ in processors) if known else None,
        processors=len(processors),
    )


# --- the children


def wanted_deployments(wanted: ModelDeployment, offer: EligibleKinds, plan: ModelPlan, settings: Settings) -> list[Raw]:
    """One Deployment per kind that has slots."""
    found = []
    for runtime in offer.plans:
        if count := plan.slots.get(runtime.kind, 0):
            template = pod_template(wanted, runtime, settings)
            strategy = strategy_of(wanted, runtime.kind)
            notes = {ANNOTATION_NO_FIT: json.dumps(plan.no_fit, sort_keys=True)} if plan.no_fit else {}
            notes[ANNOTATION_REVISION] = digest([count, template, strategy])
            found.append(
                deployment(wanted.raw, runtime.kind, count, template=template, strategy=strategy, annotations=notes)
            )
    return found


def actions(
    wanted: ModelDeployment, deployments: Sequence[Raw], children: Children, settings: Settings, token: str
) -> tuple[Action, ...]:
    """Apply all that should be, then delete what should not."""
    raw = wanted.raw
    names = {each["metadata"]["name"] for each in deployments}
    clusterip, headless = services(raw)
    applied: list[tuple[Resource, Raw]] = [
        (CONFIG_MAP, config_map(raw)),
        (SECRET, control_secret(raw, own_labels(wanted.name), token)),
        *((DEPLOYMENT, each) for each in deployments),
        (SERVICE, clusterip),
        (SERVICE, headless),
        (PDB, disruption_budget(raw)),
        (NETWORK_POLICY, network_policy(raw, settings.operator_namespace)),
    ]
    gone = [each for each in children.deployments if each["metadata"]["name"] not in names]
    return (
        *(Apply(resource=resource, body=body) for resource, body in applied),
        *(Delete.of(DEPLOYMENT, each) for each in gone if not is_leaving(each)),
        *(Delete.of(CONFIG_MAP, each) for each in _unused(raw, deployments, children)),
    )


def _unused(raw: Raw, deployments: Sequence[Raw], children: Children) -> Iterator[Raw]:
    """Old configurations that no pod and no Deployment needs; none is removed during a roll-out, since an old
    ReplicaSet may still make pods then."""
    if not rollout(deployments, children.deployments).complete:
        return
    used = {config_name(raw), *(each.config for each in children.replicas)}
    used |= {config_of(each["spec"]["template"]["spec"]) for each in children.deployments}
    for each in children.config_maps:
        is_config = (each["metadata"].get("labels") or {}).get(LABEL_COMPONENT) == COMPONENT_CONFIG
        if is_config and each["metadata"]["name"] not in used and not is_leaving(each):
            yield each


def component_is_model(obj: Raw) -> bool:
    """Is this Deployment one of ours (and not another child of the object)?"""
    return (obj["metadata"].get("labels") or {}).get(LABEL_COMPONENT) == COMPONENT_MODEL
