"""Which template the pods of a kind have: the one they were made from, until the user's spec has another shape; pure.

So neither another version of the operator, nor a setting, nor a default of a newer CRD restarts a pod by itself. What
must be replaced all the same is replaced when it is its turn (`upgrades`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from batchwright_operator.api.eligible_kinds import RuntimePlan
from batchwright_operator.api.model_deployment import ModelDeployment
from batchwright_operator.deployments.children import config_name, configuration_text, deployment_name
from batchwright_operator.deployments.facts import DeploymentFacts
from batchwright_operator.deployments.pod_template import pod_template
from batchwright_operator.deployments.replicas import config_of
from batchwright_operator.deployments.revision import Revision, named
from batchwright_operator.deployments.shape import NOT_OF_THE_POD, recorded_spec, same_shape, shape
from batchwright_operator.kube.metadata import annotation
from batchwright_operator.kube.objects import Raw
from batchwright_operator.reconcile.applied import owned_part
from batchwright_operator.rendering.objects import digest
from batchwright_operator.settings import Settings
from batchwright_worker.api.deployment import parse_spec
from batchwright_worker.api.names import ANNOTATION_RESTARTED_AT, LIVE_FIELDS

TEMPLATE_VERSION: Final = 2
"""Of the templates that this operator renders; 0 is that of templates from before 0.1.0, when there were no revisions.
To be raised with every change of the rendering (`tests/deployments/test_upgrades.py` sees to it)."""
REQUIRED_VERSION: Final = 0
"""Pods of an older template version must be replaced: they do not work with this operator, or should not run."""


def platform(settings: Settings) -> str:
    """Digest of all settings that templates are rendered with."""
    parts = (
        settings.worker_image,
        settings.image_pull_policy,
        [(row.accelerator, row.format, row.image, _resources(row.resources), row.env)
         for row in settings.runtime_table],
        [_resources(each) for each in
         (settings.sidecar_resources, settings.runtime_resources, settings.fetch_resources)],
        settings.sidecar_env,
        settings.allowed_hosts,
        settings.allow_private_addresses,
        settings.allow_http,
    )  # fmt: skip
    later = (settings.weights_cache, settings.fetch_env)  # unset they are no part of it, as before they were there
    return digest((*parts, *(msgspec.to_builtins(each) for each in later if each)))


def _resources(found: Any) -> Any:
    return None if found is None else found.as_dict()


def current_revisions(facts: DeploymentFacts, plans: Iterable[RuntimePlan], settings: Settings) -> dict[str, Revision]:
    """By kind: the revision that its Deployment is to have. One that is there and has the shape of the spec stays."""
    known = facts.revisions
    newest = max((each.number for each in known), default=0)
    return {plan.kind: _current(facts, plan, settings, newest) for plan in plans}


def _current(facts: DeploymentFacts, plan: RuntimePlan, settings: Settings, newest: int) -> Revision:
    mine = [each for each in facts.revisions if each.kind == plan.kind]
    last = max((each.number for each in mine), default=0)
    found = matching(facts.deployment, mine, plan.kind)
    if found is None and not mine:
        found = _adopted(facts, plan, settings)
        if found is not None:
            return replace(found, number=newest + 1)
    if found is None:
        return replace(_rendered(facts.deployment, plan, settings), number=newest + 1)
    if is_outdated(found, settings) and (facts.may_upgrade or not _runs(facts, plan.kind)):
        return replace(_rendered(facts.deployment, plan, settings, by_upgrade=True), number=newest + 1)
    # The user went back to it: it is the newest again, as with a ReplicaSet of a Deployment.
    return found if found.number == last else replace(found, number=newest + 1)


def matching(deployment: ModelDeployment, revisions: Sequence[Revision], kind: str) -> Revision | None:
    """The newest revision that has the shape of the spec."""
    asked = annotation(deployment.raw, ANNOTATION_RESTARTED_AT)
    for each in sorted(revisions, key=lambda each: -each.number):
        if each.kind != kind or each.restarted_at != asked:
            continue
        if same_shape(each.spec, deployment.spec, deployment.raw["spec"], kind, each.live):
            return each
    return None


def is_outdated(revision: Revision, settings: Settings) -> bool:
    """Whether its pods are to be replaced by those of this operator, when it is their turn."""
    if revision.version < REQUIRED_VERSION:
        return True
    return settings.upgrade_policy == "All" and revision.platform != platform(settings)


def _runs(facts: DeploymentFacts, kind: str) -> bool:
    name = deployment_name(facts.deployment.name, kind)
    return any(each["metadata"]["name"] == name for each in facts.deployments)


def _rendered(
    deployment: ModelDeployment, plan: RuntimePlan, settings: Settings, *, by_upgrade: bool = False
) -> Revision:
    asked = annotation(deployment.raw, ANNOTATION_RESTARTED_AT)
    template = pod_template(deployment, plan, settings)
    if asked:
        template["metadata"]["annotations"][ANNOTATION_RESTARTED_AT] = asked
    return named(
        deployment.name,
        Revision(name="", kind=plan.kind, number=0, spec=recorded_spec(deployment.raw["spec"]), template=template,
                 live=LIVE_FIELDS, version=TEMPLATE_VERSION, platform=platform(settings), restarted_at=asked,
                 by_upgrade=by_upgrade),
    )  # fmt: skip


def _adopted(facts: DeploymentFacts, plan: RuntimePlan, settings: Settings) -> Revision | None:
    """The template of a Deployment that has no revision, if the spec has not changed since: a build before 0.1.0 has
    made it, or somebody has deleted the history."""
    name = deployment_name(facts.deployment.name, plan.kind)
    live = next((each for each in facts.deployments if each["metadata"]["name"] == name), None)
    if live is None:
        return None
    template = live["spec"]["template"]
    mounted = config_of(template["spec"])
    config = next((each for each in facts.config_maps if each["metadata"]["name"] == mounted), None)
    text = "" if config is None else configuration_text(config)
    if not text or not _says_the_same(facts.deployment, text, template, plan, settings):
        return None
    head = {name: value for name, value in template["metadata"].items() if value is not None}
    # Its name says what in it may change as the pods run; those of a build before 0.1.0 have another one.
    is_live = mounted == config_name(facts.deployment.raw, plan.kind)
    return named(
        facts.deployment.name,
        Revision(name="", kind=plan.kind, number=0, spec=recorded_spec(facts.deployment.raw["spec"]),
                 template={**template, "metadata": head}, config="" if is_live else text,
                 live=LIVE_FIELDS if is_live else (),
                 restarted_at=annotation(facts.deployment.raw, ANNOTATION_RESTARTED_AT)),
    )  # fmt: skip


def _says_the_same(
    deployment: ModelDeployment, text: str, template: Raw, plan: RuntimePlan, settings: Settings
) -> bool:
    """Whether a configuration and a template from before 0.1.0 are of this spec: the configuration has the parts that
    processes read, and the template shows the others."""
    others = {name: value for name, value in deployment.raw["spec"].items() if name in NOT_OF_THE_POD}
    try:
        recorded = parse_spec({**json.loads(text)["spec"], **others})
    except (ValueError, KeyError):
        return False
    if shape(recorded, plan.kind) != shape(deployment.spec, plan.kind):
        return False
    wanted = pod_template(deployment, plan, settings)
    return all(
        _pod_fields(wanted, part) == owned_part(_pod_fields(wanted, part), _pod_fields(template, part))
        and (part == "securityContext" or _pod_fields(template, part).keys() == _pod_fields(wanted, part).keys())
        for part in ("metadata", "spec", "securityContext", "volumes")
    )


def _pod_fields(template: Raw, part: str) -> Raw:
    """The part of a template that is made from `placement` and `pod`."""
    spec = template["spec"]
    if part == "metadata":
        notes = template["metadata"].get("annotations") or {}
        found = {**(template["metadata"].get("labels") or {}), **notes}
        return {name: value for name, value in found.items() if not name.startswith("kubectl.kubernetes.io/")}
    if part == "securityContext":
        return spec.get("securityContext") or {}
    if part == "volumes":
        return {each["name"]: {} for each in spec.get("volumes") or ()}
    names = ("nodeSelector", "tolerations", "serviceAccountName", "priorityClassName", "runtimeClassName",
             "imagePullSecrets")  # fmt: skip
    return {name: spec[name] for name in names if name in spec}
