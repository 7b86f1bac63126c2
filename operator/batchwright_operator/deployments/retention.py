"""What there is to be of configurations and revisions, and which old ones may go; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from batchwright_operator.deployments.children import (
    ANNOTATION_SINCE,
    COMPONENT_CONFIG,
    config_map,
    configuration_text,
    deployment_json,
)
from batchwright_operator.deployments.facts import DeploymentFacts
from batchwright_operator.deployments.replicas import config_of
from batchwright_operator.deployments.revision import Revision, revision_object
from batchwright_operator.deployments.rollout import Rollout
from batchwright_operator.deployments.shape import configuration
from batchwright_operator.kube.metadata import annotation, controller_of, is_leaving, label, whole_number
from batchwright_operator.kube.objects import Raw
from batchwright_worker.api.names import LABEL_COMPONENT


def configurations(facts: DeploymentFacts, revisions: Sequence[Revision]) -> Iterator[Raw]:
    """The configuration of each revision; two kinds may share one. So have older revisions that still have pods: until
    these are replaced, they serve by the newest targets too."""
    made: set[str] = set()
    used = {each.config for each in facts.present}
    older = [each for each in facts.revisions if each.live and config_of(each.template["spec"]) in used]
    for each in (*revisions, *older):
        name = config_of(each.template["spec"])
        if name not in made:
            made.add(name)
            yield _configuration(facts, each, name)


def _configuration(facts: DeploymentFacts, revision: Revision, name: str) -> Raw:
    raw = facts.deployment.raw
    spec = configuration(revision.spec, raw["spec"], revision.kind, revision.live)
    if not revision.live:
        return config_map(raw, name, revision.config or deployment_json(raw, spec))
    there = next((each for each in facts.config_maps if each["metadata"]["name"] == name), None)
    if there is not None and (since := whole_number(annotation(there, ANNOTATION_SINCE))) is not None:
        # A new number of replicas is a new generation too, and nothing that a sidecar had to be told.
        text = deployment_json(raw, spec, since)
        if text == configuration_text(there):
            return config_map(raw, name, text, since)
    generation = facts.deployment.generation
    return config_map(raw, name, deployment_json(raw, spec, generation), generation)


def forgotten(facts: DeploymentFacts, revisions: Sequence[Revision]) -> Iterator[Raw]:
    """Revisions beyond the history, oldest first to go."""
    kept = {each.name for each in revisions}
    old = sorted((each for each in facts.revisions if each.name not in kept), key=lambda each: -each.number)
    kinds: Counter[str] = Counter()
    for each in old:
        kinds[each.kind] += 1
        if kinds[each.kind] <= facts.deployment.spec.revision_history_limit:
            kept.add(each.name)
    for raw in facts.revision_objects:
        if raw["metadata"]["name"] not in kept and not is_leaving(raw) and controller_of(raw) is not None:
            yield raw


def left_behind(facts: DeploymentFacts, revisions: Sequence[Revision]) -> Iterator[Raw]:
    """Revisions that nobody owns any more (`kubectl delete --cascade=orphan`, an owner reference taken away), as this
    object's: the history that `kubectl batchwright rollback` goes back in."""
    applied = {each.name for each in revisions}
    orphans = {each["metadata"]["name"] for each in facts.revision_objects if controller_of(each) is None}
    for each in facts.revisions:
        if each.name in orphans - applied:
            yield revision_object(facts.deployment.raw, each)


def unused(facts: DeploymentFacts, revisions: Sequence[Revision], rolled: Rollout) -> Iterator[Raw]:
    """Old configurations that no pod and no Deployment needs; none is removed during a roll-out, since an old
    ReplicaSet may still make pods then."""
    if not rolled.complete:
        return
    used = {config_of(each.template["spec"]) for each in revisions} | {each.config for each in facts.replicas}
    used |= {config_of(each["spec"]["template"]["spec"]) for each in facts.deployments}
    for each in facts.config_maps:
        is_config = label(each, LABEL_COMPONENT) == COMPONENT_CONFIG
        if is_config and each["metadata"]["name"] not in used and not is_leaving(each):
            yield each
