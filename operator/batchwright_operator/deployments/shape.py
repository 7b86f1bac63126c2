"""What of a user's spec shapes the pods of one kind of accelerator; pure.

Two specs with the same shape make the same pods, whatever an upgrade has added to either: a default that a newer CRD
fills in is left out of both, so that it changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import msgspec

from batchwright_operator.kube.objects import Raw
from batchwright_worker.api.defaults import without_defaults
from batchwright_worker.api.deployment import ModelDeploymentSpec, Runtime, parse_spec
from batchwright_worker.api.names import KIND_CPU

NOT_OF_THE_POD: Final = frozenset(
    {
        "replicas",
        "placement",
        "strategy",
        "disruptionBudget",
        "networkPolicy",
        "tls",
        "pod",
        "progressDeadlineSeconds",
        "revisionHistoryLimit",
    }
)
"""Parts of the spec that no process in the pod reads; so a change of them alone is no other configuration."""
NOT_OF_THE_TEMPLATE: Final = NOT_OF_THE_POD - {"placement", "pod", "tls"}
"""Parts of the spec that nothing of a pod is made from."""
PLACED: Final = ("nodeSelector", "tolerations")
"""Parts of `placement` that are in the pod itself."""


def shape(spec: ModelDeploymentSpec, kind: str, live: Collection[str] = ()) -> Raw:
    """The parts of the spec that pods of this kind are made from, without what is the default anyway. `live`: paths
    within a model (`targets.latencyMilliseconds`) that pods take over as they run."""
    whole = {name: value for name, value in without_defaults(spec).items() if name not in NOT_OF_THE_TEMPLATE}
    placement = {name: value for name, value in whole.pop("placement", {}).items() if name in PLACED}
    runtime = next((each for each in spec.runtimes if each.accelerator == kind), Runtime(accelerator=kind))
    models = [
        _without(without_defaults(model), live)
        | {"artifacts": [without_defaults(each) for each in model.artifacts if each.accelerator == kind]}
        for model in spec.models
    ]
    return whole | {"models": models, "runtimes": without_defaults(runtime), "placement": placement}


def _without(model: Raw, paths: Collection[str]) -> Raw:
    """The model without what is at these paths; parts that become empty go too."""
    parts = {name: dict(value) if isinstance(value, dict) else value for name, value in model.items()}
    for part, _, name in (path.partition(".") for path in paths):
        if isinstance(parts.get(part), dict):
            parts[part].pop(name, None)
            if not parts[part]:
                del parts[part]
    return parts


def recorded_spec(raw: Raw) -> Raw:
    """What a revision keeps of a spec as the API server serves it: all but how many replicas there are to be."""
    return {name: value for name, value in raw.items() if name != "replicas"}


def same_shape(recorded: Raw, current: ModelDeploymentSpec, current_raw: Raw, kind: str, live: Collection[str]) -> bool:
    """Whether the recorded spec, as the API server served it then, has the shape of the current one."""
    if recorded == recorded_spec(current_raw):
        return True
    try:
        return shape(parse_spec(recorded), kind, live) == shape(current, kind, live)
    except msgspec.ValidationError:
        return False


def configuration(recorded: Raw, current: Raw, kind: str, live: Collection[str]) -> Raw:
    """The spec that pods of this kind read: as it was recorded, so that they find what they know, with the current
    values at the live paths of the models that are still there."""
    now = {model["name"]: model for model in current.get("models") or ()}
    return _of_pods(recorded, [overlaid(each, now.get(each["name"], each), live) for each in recorded["models"]], kind)


def fixed_configuration(spec: Raw, kind: str, live: Collection[str]) -> Raw:
    """The part of it that pods of this kind read but cannot take over as they run."""
    return _of_pods(spec, [_without(each, live) for each in spec["models"]], kind)


def _of_pods(whole: Raw, models: Sequence[Raw], kind: str) -> Raw:
    spec = {name: value for name, value in whole.items() if name not in NOT_OF_THE_POD}
    spec["models"] = [_artifacts_of(each, kind) for each in models]
    if "runtimes" in spec:
        spec["runtimes"] = [each for each in spec["runtimes"] if each["accelerator"] == kind]
    return spec


def _artifacts_of(model: Raw, kind: str) -> Raw:
    artifacts = [each for each in model["artifacts"] if each.get("accelerator", KIND_CPU) == kind]
    return {**model, "artifacts": artifacts}


def overlaid(model: Raw, now: Raw, live: Collection[str]) -> Raw:
    """The model with the values at the live paths as `now` has them."""
    found = dict(model)
    for part, _, name in (path.partition(".") for path in live):
        values = dict(found.get(part) or {})
        values.pop(name, None)
        if name in (now.get(part) or {}):
            values[name] = now[part][name]
        if values or part in found:
            found[part] = values
    return found
