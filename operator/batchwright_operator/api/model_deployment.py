"""A ModelDeployment as a frozen value: identity from metadata, spec parsed once, defaults of the schema included."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from batchwright_operator.api.identity import Identified, identity
from batchwright_operator.api.invalid_spec import InvalidSpec
from batchwright_operator.kube.objects import Raw
from batchwright_worker.api.defaults import effective
from batchwright_worker.api.deployment import (
    Artifact,
    Model,
    ModelDeploymentSpec,
    Runtime,
    parse_spec,
)
from batchwright_worker.api.formats import TRITON_REPOSITORY


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDeployment(Identified):
    """What a user wants of one deployment. `spec` is the typed spec, `raw` the object it came from (never mutated),
    whose elements of lists say their defaults."""

    spec: ModelDeploymentSpec
    raw: Raw

    def kinds(self) -> tuple[str, ...]:
        """Accelerator kinds that the pods may land on, in the user's order: those of `runtimes`, else those that
        every model has an artifact for (in the order of the first model's artifacts)."""
        if self.spec.runtimes:
            return tuple(runtime.accelerator for runtime in self.spec.runtimes)
        first, *others = self.spec.models
        candidates = (artifact.accelerator for artifact in first.artifacts)
        return tuple(kind for kind in candidates if all(artifact_for(model, kind) for model in others))

    def runtime_for(self, kind: str) -> Runtime:
        """The user's runtime of this kind, else one with nothing but defaults."""
        named = (runtime for runtime in self.spec.runtimes if runtime.accelerator == kind)
        return next(named, Runtime(accelerator=kind))

    def artifacts_for(self, kind: str) -> tuple[Artifact, ...]:
        """One artifact per model that has one for this kind, in the order of the models."""
        found = (artifact_for(model, kind) for model in self.spec.models)
        return tuple(artifact for artifact in found if artifact is not None)

    def sidecar_artifacts_for(self, kind: str) -> tuple[Artifact, ...]:
        """Those that the sidecar reads itself: of models with a task, whose tokenizers lie beside them, and of Triton
        model repositories, which say how their models are served."""
        found = ((model, artifact_for(model, kind)) for model in self.spec.models)
        return tuple(
            artifact
            for model, artifact in found
            if artifact is not None and (model.task is not None or artifact.format == TRITON_REPOSITORY)
        )


def artifact_for(model: Model, kind: str) -> Artifact | None:
    """The model's artifact for this accelerator kind."""
    return next((artifact for artifact in model.artifacts if artifact.accelerator == kind), None)


def parse(raw: Raw) -> ModelDeployment:
    """The only reader of a raw ModelDeployment's spec. Raises InvalidSpec."""
    try:
        spec = parse_spec(raw.get("spec", {}))
    except msgspec.ValidationError as error:
        raise InvalidSpec(error) from error
    # What pods are made from is the same text whether the API server, which did so before 0.1.0, or this filled it in.
    filled = {**raw, "spec": effective(raw["spec"], ModelDeploymentSpec)} if "spec" in raw else raw
    return ModelDeployment(identity=identity(raw), spec=spec, raw=filled)
