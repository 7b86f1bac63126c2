"""What there is to be of configurations and revisions, and which old ones may go; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from batchwright_operator.deployments.children import COMPONENT_CONFIG, config_map, deployment_json
from batchwright_operator.deployments.facts import DeploymentFacts
from batchwright_operator.deployments.replicas import config_of
from batchwright_operator.deployments.revision import Revision
from batchwright_operator.deployments.rollout import Rollout
from batchwright_operator.deployments.shape import configuration
from batchwright_operator.kube.metadata import is_leaving, label
from batchwright_operator.kube.objects import Raw
from batchwright_worker.api.names import LABEL_COMPONENT


def configurations(facts: DeploymentFacts, revisions: Sequence[Revision]) -> Iterator[Raw]:
    """The configuration of each revision; two kinds may share one."""
    raw, made = facts.deployment.raw, set()
    for each in revisions:
        name = config_of(each.template["spec"])
        if name in made:
            continue
        made.add(name)
        text = each.config or deployment_json(raw, configuration(each.spec, raw["spec"], each.kind, each.live))
        yield config_map(raw, name, text, immutable=not each.live)


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
        if raw["metadata"]["name"] not in kept and not is_leaving(raw):
            yield raw


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
