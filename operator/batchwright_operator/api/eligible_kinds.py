"""Which kinds of accelerator a ModelDeployment may use, and with which runtime container (method A2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from batchwright_operator.api.model_deployment import ModelDeployment, artifact_for
from batchwright_operator.kube.conditions import few
from batchwright_operator.settings import Settings
from batchwright_worker.api.deployment import Runtime
from batchwright_worker.api.names import kind_slug


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimePlan:
    """The runtime container(s) of one kind, with the operator's runtime table filled in."""

    kind: str
    runtime: Runtime
    image: str
    resources: dict[str, dict[str, Any]]
    table_env: tuple[tuple[str, str], ...] = ()

    @property
    def is_server(self) -> bool:
        """Is the container an Open Inference Protocol server of the user's?"""
        return self.runtime.protocol == "open-inference"


@dataclass(frozen=True, slots=True, kw_only=True)
class EligibleKinds:
    """The kinds a deployment may use, in the user's order, and why others that it names are not eligible."""

    plans: tuple[RuntimePlan, ...]
    refusals: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that may be used."""
        return tuple(plan.kind for plan in self.plans)


def eligible_kinds(deployment: ModelDeployment, settings: Settings) -> EligibleKinds:
    """The kinds for which every model has an artifact and there is one runtime."""
    plans: list[RuntimePlan] = []
    refusals: list[str] = []
    for kind in _named(deployment):
        lacking = [model.name for model in deployment.spec.models if artifact_for(model, kind) is None]
        found = _plan(deployment, kind, settings) if not lacking else f"no artifact in {few(lacking)}"
        if same := [plan.kind for plan in plans if kind_slug(plan.kind) == kind_slug(kind)]:
            found = f"its objects would have the names of those of {same[0]}; use one of the two"
        if isinstance(found, str):
            refusals.append(f"{kind}: {found}")
        else:
            plans.append(found)
    return EligibleKinds(plans=tuple(plans), refusals=tuple(refusals))


def _named(deployment: ModelDeployment) -> list[str]:
    """Kinds that the user names: those of `runtimes`, else every kind that some artifact is for."""
    if deployment.spec.runtimes:
        return [runtime.accelerator for runtime in deployment.spec.runtimes]
    return list(dict.fromkeys(artifact.accelerator for model in deployment.spec.models for artifact in model.artifacts))


def _plan(deployment: ModelDeployment, kind: str, settings: Settings) -> RuntimePlan | str:
    """The plan, or why there is none."""
    runtime = deployment.runtime_for(kind)
    formats = dict.fromkeys(artifact.format for artifact in deployment.artifacts_for(kind))
    rows = [settings.runtime_for(kind, each) for each in formats]
    images = sorted({row.image for row in rows})
    if runtime.image is None and len(images) > 1:
        return (
            f"the models' formats ({', '.join(formats)}) have different runtime images ({', '.join(images)}); "
            "set the image in spec.runtimes, or make a deployment of each format"
        )
    table = rows[0].resources.as_dict() if rows[0].resources else {}
    resources: dict[str, dict[str, Any]] = {name: {**values} for name, values in table.items()}
    if runtime.resources is not None:
        resources = {"requests": {**runtime.resources.requests}, "limits": {**runtime.resources.limits}}
    return RuntimePlan(
        kind=kind,
        runtime=runtime,
        image=runtime.image or images[0],
        resources=resources,
        table_env=tuple(sorted(rows[0].env.items())) if runtime.image is None else (),
    )
