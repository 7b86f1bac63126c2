"""A ModelDeployment as a frozen value: identity from metadata, spec parsed once, defaults of the schema included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from batchwright_operator.kube.metadata import is_leaving
from batchwright_operator.kube.objects import Raw
from batchwright_worker.api.deployment import (
    Artifact,
    Layerwise,
    Model,
    ModelDeploymentSpec,
    Placement,
    PodOptions,
    Runtime,
    Strategy,
    parse_spec,
)


class InvalidSpec(ValueError):  # noqa: N818 - a fact about an object, told by its name
    """A stored object breaks the schema (it is older than a rule, or the CRDs are not those of this operator).

    `field` is the path of what is wrong (`spec.models[0].name`), `problem` what is wrong with it.
    """

    def __init__(self, error: msgspec.ValidationError) -> None:
        problem, _, path = str(error).partition(" - at `$")
        self.field = f"spec{path.rstrip('`')}"
        self.problem = problem
        super().__init__(f"{self.field}: {problem}; correct the field, or apply the CRDs of this version")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Metadata that decisions need. `deleting`: a deletion timestamp is set."""

    name: str
    namespace: str
    uid: str
    generation: int
    resource_version: str = ""
    deleting: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


def identity(raw: Raw) -> Identity:
    """From a raw object; fields that only the API server sets may be absent (tests, local mode)."""
    metadata: Mapping[str, Any] = raw["metadata"]
    return Identity(
        name=metadata["name"],
        namespace=metadata.get("namespace", ""),
        uid=metadata.get("uid", ""),
        generation=metadata.get("generation", 0),
        resource_version=metadata.get("resourceVersion", ""),
        deleting=is_leaving(raw),
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Identified:
    """An object of our own kinds, with short names for its identity."""

    identity: Identity

    @property
    def name(self) -> str:
        return self.identity.name

    @property
    def namespace(self) -> str:
        return self.identity.namespace

    @property
    def uid(self) -> str:
        return self.identity.uid

    @property
    def generation(self) -> int:
        return self.identity.generation

    @property
    def deleting(self) -> bool:
        return self.identity.deleting


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDeployment(Identified):
    """What a user wants of one deployment. `spec` is the typed spec, `raw` the object it came from (never mutated)."""

    spec: ModelDeploymentSpec
    raw: Raw

    @property
    def replicas(self) -> int:
        return self.spec.replicas

    @property
    def models(self) -> tuple[Model, ...]:
        return self.spec.models

    @property
    def runtimes(self) -> tuple[Runtime, ...]:
        return self.spec.runtimes

    @property
    def queue_order(self) -> str:
        return self.spec.queue_order

    @property
    def layerwise(self) -> Layerwise:
        return self.spec.layerwise

    @property
    def placement(self) -> Placement:
        return self.spec.placement

    @property
    def strategy(self) -> Strategy | None:
        return self.spec.strategy

    @property
    def repository_control(self) -> bool:
        return self.spec.repository_control

    @property
    def pod(self) -> PodOptions:
        return self.spec.pod

    def kinds(self) -> tuple[str, ...]:
        """Accelerator kinds that the pods may land on, in the user's order: those of `runtimes`, else those that
        every model has an artifact for (in the order of the first model's artifacts)."""
        if self.runtimes:
            return tuple(runtime.accelerator for runtime in self.runtimes)
        first, *others = self.models
        candidates = (artifact.accelerator for artifact in first.artifacts)
        return tuple(kind for kind in candidates if all(artifact_for(model, kind) for model in others))

    def runtime_for(self, kind: str) -> Runtime:
        """The user's runtime of this kind, else one with nothing but defaults."""
        named = (runtime for runtime in self.runtimes if runtime.accelerator == kind)
        return next(named, Runtime(accelerator=kind))

    def artifacts_for(self, kind: str) -> tuple[Artifact, ...]:
        """One artifact per model that has one for this kind, in the order of the models."""
        found = (artifact_for(model, kind) for model in self.models)
        return tuple(artifact for artifact in found if artifact is not None)


def artifact_for(model: Model, kind: str) -> Artifact | None:
    """The model's artifact for this accelerator kind."""
    return next((artifact for artifact in model.artifacts if artifact.accelerator == kind), None)


def parse(raw: Raw) -> ModelDeployment:
    """The only reader of a raw ModelDeployment's spec. Raises InvalidSpec."""
    try:
        spec = parse_spec(raw.get("spec", {}))
    except msgspec.ValidationError as error:
        raise InvalidSpec(error) from error
    return ModelDeployment(identity=identity(raw), spec=spec, raw=raw)
