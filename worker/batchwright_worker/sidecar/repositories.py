"""Models in Triton model repositories, as their config.pbtxt says: read once, when the sidecar starts.

A server of the user's (protocol open-inference) reads its repository itself, so what is there is left to it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from batchwright_worker.api.deployment import ModelDeployment
from batchwright_worker.api.formats import TRITON_REPOSITORY
from batchwright_worker.api.names import KIND_CPU
from batchwright_worker.artifacts.names import ArtifactError
from batchwright_worker.artifacts.triton.artifact import ConfiguredModel, configured
from batchwright_worker.engine.loader import artifact_for

_LOG = logging.getLogger(__name__)
_NONE: Final[Mapping[str, Any]] = {}


class Repositories:
    """Those of one kind of accelerator. `refused`: per model why it cannot be served as it is."""

    def __init__(
        self, kind: str = KIND_CPU, found: Mapping[str, ConfiguredModel] = _NONE, refused: Mapping[str, str] = _NONE
    ) -> None:
        self._kind = kind
        self._found = found
        self.refused = refused

    @classmethod
    def of(cls, deployment: ModelDeployment, kind: str) -> Repositories:
        """Reads what the pod has on its volumes."""
        found: dict[str, ConfiguredModel] = {}
        refused: dict[str, str] = {}
        if any(each.accelerator == kind and each.protocol == "open-inference" for each in deployment.spec.runtimes):
            return cls(kind, found, refused)
        for model in deployment.spec.models:
            artifact = artifact_for(model, kind)
            if artifact is None or artifact.format != TRITON_REPOSITORY:
                continue
            try:
                read = configured(model, artifact)
                read.under(model, kind)
            except ArtifactError as error:
                refused[model.name] = f"{artifact.uri}: {error}"
                continue
            found[model.name] = read
            for note in read.notes:
                _LOG.info("%s: %s", model.name, note)
        return cls(kind, found, refused)

    def applied(self, deployment: ModelDeployment) -> ModelDeployment:
        """The deployment as it is served. Raises ArtifactError where a model breaks a rule together with its
        config.pbtxt."""
        if not self._found:
            return deployment
        models = tuple(
            self._found[each.name].under(each, self._kind) if each.name in self._found else each
            for each in deployment.spec.models
        )
        return msgspec.structs.replace(deployment, spec=msgspec.structs.replace(deployment.spec, models=models))
