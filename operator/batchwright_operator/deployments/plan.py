"""What the children of a ModelDeployment should be, and the actions that make them so; pure. Knows nothing of `status`,
which knows nothing of it: `phase` and `rollout` stand below both."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batchwright_operator.deployments.children import (
    ANNOTATION_NO_FIT,
    ANNOTATION_UPGRADE,
    control_secret,
    deployment,
    disruption_budget,
    headless_service,
    network_policy,
    old_headless_name,
    own_labels,
    service,
)
from batchwright_operator.deployments.device_claims import claim_template
from batchwright_operator.deployments.facts import DeploymentFacts
from batchwright_operator.deployments.kind_change import ANNOTATION_LEAVING, KindInUse, leaving
from batchwright_operator.deployments.kind_split import RETRY_S, CurrentReplicas, Supply, split
from batchwright_operator.deployments.pod_template import strategy_of
from batchwright_operator.deployments.replicas import Replica
from batchwright_operator.deployments.retention import configurations, forgotten, left_behind, unused
from batchwright_operator.deployments.revision import Revision, revision_object
from batchwright_operator.deployments.rollout import ANNOTATION_REVISION, rollout
from batchwright_operator.deployments.template_choice import current_revisions
from batchwright_operator.kube.conditions import find
from batchwright_operator.kube.metadata import annotation, is_leaving, label, whole_number
from batchwright_operator.kube.objects import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    NETWORK_POLICY,
    PDB,
    RESOURCE_CLAIM_TEMPLATE,
    SECRET,
    SERVICE,
    Raw,
    Resource,
)
from batchwright_operator.kube.times import rfc3339, unix
from batchwright_operator.placement.moves import ANNOTATION_SURGE, surge_of
from batchwright_operator.processors.processor import processors_of
from batchwright_operator.reconcile.decisions import Action, Apply, Delete, Patch
from batchwright_operator.rendering.objects import copied, digest
from batchwright_operator.settings import Settings
from batchwright_worker.api.names import ANNOTATION_KIND, COMPONENT_MODEL, KIND_CPU, LABEL_COMPONENT


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaPlan:
    """Replicas per kind, and the kinds that had no place lately (kind -> when, and its processors then)."""

    replicas: dict[str, int]
    no_fit: dict[str, Raw]


# --- how many of which kind


def plan_replicas(facts: DeploymentFacts, now: float, no_fit_s: float) -> ReplicaPlan:
    """`kind_split.split` on what is observed."""
    kinds = facts.kinds.kinds
    processors = {kind: facts.profiles.of_kind(kind, _processors) for kind in kinds}
    shares, counts = own_shares(facts.deployments), current_replicas(facts.deployments)
    notes = _notes(facts.deployments)
    current = {
        kind: CurrentReplicas(
            count=shares.get(kind, 0),
            stuck=_stuck(kind, counts.get(kind, 0), facts.replicas, now, no_fit_s),
            excluded=_is_excluded(notes.get(kind), processors[kind], now),
        )
        for kind in kinds
    }
    supplies = {
        plan.kind: _supply(processors[plan.kind], plan.kind, plan.runtime.count, facts.taken.get(plan.kind, 0))
        for plan in facts.kinds.plans
    }
    replicas = split(
        facts.deployment.spec.replicas, kinds, supplies, current,
        preference=facts.deployment.spec.placement.preference, may_move=not _is_changing(facts.deployments),
    )  # fmt: skip
    # Which kinds had no place is noted on the Deployments themselves: without the note a replica would go back to the
    # kind that just refused it as soon as its pod there is gone, and wander forever. A note ends after RETRY_S, or when
    # the processors of its kind change.
    moved = {kind for kind in kinds if current[kind].stuck and replicas[kind] < current[kind].count}
    fresh = {kind: {"since": rfc3339(now), "processors": digest(processors[kind])} for kind in moved}
    kept = {kind: note for kind, note in notes.items() if kind in kinds}
    return ReplicaPlan(replicas=replicas, no_fit=kept | fresh)


def current_replicas(deployments: Sequence[Raw]) -> dict[str, int]:
    """Replicas asked for now, by kind."""
    return {_kind_of(each): int(each["spec"].get("replicas", 0)) for each in deployments}


def own_shares(deployments: Sequence[Raw]) -> dict[str, int]:
    """As `current_replicas`, without those that only serve until others are ready."""
    return {
        kind: max(0, count - _leaving(each) - _surge(each))
        for each in deployments
        for kind, count in current_replicas([each]).items()
    }


def _surge(obj: Raw) -> int:
    """How many of its replicas are a move's (`placement/moves`)."""
    return whole_number(annotation(obj, ANNOTATION_SURGE)) or 0


def _leaving(obj: Raw) -> int:
    return whole_number(annotation(obj, ANNOTATION_LEAVING)) or 0


def _is_changing(deployments: Sequence[Raw]) -> bool:
    """Are replicas on their way to another kind? One wave at a time, so that a change is no doubling of the pods."""
    return any(_leaving(each) for each in deployments)


def _kind_of(obj: Raw) -> str:
    return annotation(obj, ANNOTATION_KIND)


def _stuck(kind: str, count: int, replicas: Sequence[Replica], now: float, no_fit_s: float) -> int:
    """Replicas whose pod waits for a place too long. A Deployment that was scaled down still has pods beyond its count
    for a moment; its ReplicaSet deletes waiting ones first, so that those are not counted."""
    present = [each for each in replicas if each.kind == kind and not each.terminating]
    late = sum(each.waits_for_place and now - each.created >= no_fit_s for each in present)
    return max(0, late - max(0, len(present) - count))


def _notes(deployments: Sequence[Raw]) -> dict[str, Raw]:
    """The newest note of every kind that had no place, from all Deployments."""
    merged: dict[str, Raw] = {}
    for each in deployments:
        for kind, note in _json(annotation(each, ANNOTATION_NO_FIT)).items():
            if kind not in merged or str(note.get("since", "")) > str(merged[kind].get("since", "")):
                merged[kind] = note
    return merged


def _json(text: str) -> dict[str, Raw]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return {kind: note for kind, note in found.items() if isinstance(note, dict)} if isinstance(found, dict) else {}


def _is_excluded(note: Raw | None, processors: Sequence[Any], now: float) -> bool:
    if note is None or note.get("processors") != digest(processors):
        return False
    since = unix(note.get("since"))
    return since is not None and now - since < RETRY_S


def _processors(profiles: Iterable[Raw], kind: str) -> list[tuple[str, int, float]]:
    """(node, slots, images/s of all of them) of every processor of this kind whose node takes pods, by node."""
    return sorted(
        (profile["metadata"]["name"], found.slots or len(found.devices), found.node_capacity or 0.0)
        for profile in profiles
        if (found := processors_of(profile).get(kind)) is not None and _takes_pods(profile)
    )


def _takes_pods(profile: Raw) -> bool:
    conditions = (profile.get("status") or {}).get("conditions")
    return find(conditions, "Schedulable").get("status") != "False"


def _supply(processors: Sequence[tuple[str, int, float]], kind: str, count: int, taken: int) -> Supply:
    known = kind != KIND_CPU and any(slots for _, slots, _ in processors)
    return Supply(
        capacity=sum(capacity for _, _, capacity in processors),
        max_replicas=sum(slots // count for _, slots, _ in processors) if known else None,
        processors=len(processors),
        taken_by_others=-(-taken // count) if known else 0,
    )


# --- the children


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What there should be: the Deployments, and of each kind that has one its revision and configuration."""

    deployments: tuple[Raw, ...]
    revisions: tuple[Revision, ...] = ()
    configurations: tuple[Raw, ...] = ()
    """The ConfigMaps that pods have as their configuration."""


def desired(facts: DeploymentFacts, settings: Settings, now: float) -> Desired:
    """One Deployment per kind that has replicas, those that are leaving included; the present ones while no kind is
    eligible."""
    if not facts.kinds.plans:
        return Desired(deployments=facts.deployments)
    plan = plan_replicas(facts, now, settings.unfit_seconds)
    kept = _kept(facts, plan)
    surges = {_kind_of(each): surge_of(each) for each in facts.deployments}
    shares = {kind: plan.replicas.get(kind, 0) + kept.get(kind, 0) for kind in facts.kinds.kinds}
    counts = {kind: share + surges.get(kind, 0) if share else 0 for kind, share in shares.items()}
    runtimes = [runtime for runtime in facts.kinds.plans if counts[runtime.kind]]
    revisions = current_revisions(facts, runtimes, settings)
    found = []
    for runtime in runtimes:
        count, revision = counts[runtime.kind], revisions[runtime.kind]
        template = copied(revision.template)
        strategy = strategy_of(facts.deployment, runtime.kind)
        notes = {ANNOTATION_NO_FIT: json.dumps(plan.no_fit, sort_keys=True)} if plan.no_fit else {}
        if more := kept.get(runtime.kind):
            notes[ANNOTATION_LEAVING] = str(more)
        if surge := surges.get(runtime.kind):
            notes[ANNOTATION_SURGE] = str(surge)
        notes[ANNOTATION_REVISION] = digest([count, template, strategy])
        if revision.by_upgrade:
            notes[ANNOTATION_UPGRADE] = revision.name
        found.append(
            deployment(facts.deployment, runtime.kind, count, template=template, strategy=strategy, annotations=notes)
        )
    return Desired(
        deployments=(*found, *_of_lost_kinds(facts, kept)),
        revisions=tuple(revisions.values()),
        configurations=tuple(configurations(facts, tuple(revisions.values()))),
    )


def _kept(facts: DeploymentFacts, plan: ReplicaPlan) -> dict[str, int]:
    """Replicas that stay until others are ready; none where the user's strategy is to stop them first."""
    strategy = facts.deployment.spec.strategy
    if strategy is not None and strategy.type == "Recreate":
        return {}
    ready = Counter(each.kind for each in facts.present if each.ready)
    counts = current_replicas([each for each in facts.deployments if not is_leaving(each)])
    surges = {_kind_of(each): _surge(each) for each in facts.deployments}
    in_use = {kind: KindInUse(count=count - surges[kind], ready=ready[kind]) for kind, count in counts.items()}
    return leaving(facts.deployment.spec.replicas, plan.replicas, in_use)


def _of_lost_kinds(facts: DeploymentFacts, kept: Mapping[str, int]) -> list[Raw]:
    """Deployments of kinds that the spec names no more, as they are but for the number of replicas: there is nothing
    that their pods could be rendered from."""
    eligible = facts.kinds.kinds
    return [
        {**each, "spec": {**each["spec"], "replicas": kept[kind]}}
        for each in facts.deployments
        if (kind := _kind_of(each)) not in eligible and kept.get(kind)
    ]


def actions(facts: DeploymentFacts, wanted: Desired, settings: Settings, *, token: str) -> tuple[Action, ...]:
    """Apply everything that should be, then delete what should not; nothing while no kind is eligible: the pods that
    run serve on until the spec is corrected."""
    if not facts.kinds.plans:
        return ()
    raw = facts.deployment.raw
    names = {each["metadata"]["name"] for each in wanted.deployments}
    policy = network_policy(raw, facts.deployment.spec.network_policy, settings)
    budget = disruption_budget(raw, facts.deployment.spec.disruption_budget)
    applied: list[tuple[Resource, Raw]] = [
        *((CONFIG_MAP, each) for each in wanted.configurations),
        (SECRET, control_secret(raw, own_labels(facts.deployment.name), token)),
        *([(NETWORK_POLICY, policy)] if policy is not None else []),
        (SERVICE, service(raw)),
        (SERVICE, headless_service(raw)),
        *_old_headless(facts),
        *([(PDB, budget)] if budget is not None else []),
        *_claim_templates(facts),
        # Last: where a name is somebody else's, no pod is made that would mount it, or be reached past it.
        *((CONTROLLER_REVISION, revision_object(raw, each)) for each in wanted.revisions),
        *((CONTROLLER_REVISION, each) for each in left_behind(facts, wanted.revisions)),
        *((DEPLOYMENT, each) for each in wanted.deployments if _kind_of(each) in facts.kinds.kinds),
    ]
    rolled = rollout(wanted.deployments, facts.deployments)
    gone = [each for each in facts.deployments if each["metadata"]["name"] not in names]
    return (
        *(Apply(resource=resource, body=body) for resource, body in applied),
        *_shrunk(facts, wanted.deployments),
        *(Delete.of(DEPLOYMENT, each) for each in gone if not is_leaving(each)),
        *(Delete.of(CONFIG_MAP, each) for each in unused(facts, wanted.revisions, rolled)),
        *(Delete.of(CONTROLLER_REVISION, each) for each in forgotten(facts, wanted.revisions)),
        *(Delete.of(NETWORK_POLICY, each) for each in facts.policies if policy is None and not is_leaving(each)),
        *(Delete.of(PDB, each) for each in facts.budgets if budget is None and not is_leaving(each)),
        *(Delete.of(SERVICE, each) for each in facts.old_headless if facts.has_namesake and not is_leaving(each)),
    )


def _claim_templates(facts: DeploymentFacts) -> Iterator[tuple[Resource, Raw]]:
    """Those of earlier specs stay as long as the deployment: pods of an older revision may be made from them."""
    for plan in facts.kinds.plans:
        if (template := claim_template(facts.deployment, plan)) is not None:
            yield RESOURCE_CLAIM_TEMPLATE, template


def _shrunk(facts: DeploymentFacts, deployments: Sequence[Raw]) -> Iterator[Action]:
    """Fewer replicas for the Deployments of kinds that the spec names no more."""
    before = {each["metadata"]["name"]: each for each in facts.deployments}
    for each in deployments:
        there = before.get(each["metadata"]["name"])
        if there is None or _kind_of(each) in facts.kinds.kinds or there["spec"] == each["spec"]:
            continue
        metadata = there["metadata"]
        yield Patch(
            resource=DEPLOYMENT, namespace=metadata["namespace"], name=metadata["name"], uid=metadata["uid"],
            patch={"spec": {"replicas": each["spec"]["replicas"]}}, style="merge",
        )  # fmt: skip


def _old_headless(facts: DeploymentFacts) -> Iterator[tuple[Resource, Raw]]:
    """The headless Service from before 0.1.0 serves on: runners of jobs that were made then call it. It is given up
    only for a ModelDeployment that has its name, whose callers need the Service."""
    raw = facts.deployment.raw
    if facts.old_headless and not facts.has_namesake:
        yield SERVICE, headless_service(raw, old_headless_name(facts.deployment.name))


def component_is_model(obj: Raw) -> bool:
    """Is this Deployment one of ours (and not another child of the object)?"""
    return label(obj, LABEL_COMPONENT) == COMPONENT_MODEL
