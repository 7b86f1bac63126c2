"""A model whose artifact has format triton-repository, as what config.pbtxt makes of it: a model of another format.

What the manifest says itself (what is not at its default) goes before config.pbtxt.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from batchwright_worker.api.defaults import default_of
from batchwright_worker.api.model import Artifact, Model
from batchwright_worker.api.names import weights_path
from batchwright_worker.api.rules.check import broken_rules
from batchwright_worker.api.uris import file_uri
from batchwright_worker.artifacts.names import ArtifactError
from batchwright_worker.artifacts.triton.folders import check_name, found_model, model_folder
from batchwright_worker.artifacts.triton.mapping import FoundModel, backend_of, model_document
from batchwright_worker.artifacts.triton.refusals import BACKENDS, notes, refusals

Part = TypeVar("Part", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfiguredModel:
    """What config.pbtxt and the files beside it say, without anything of the manifest; `notes` say what has another
    effect here without changing an answer."""

    model: Model
    notes: tuple[str, ...]

    def under(self, declared: Model, kind: str) -> Model:
        """The model that is served: the declared one, filled up from here, with the artifact of this kind that was
        found. Raises ArtifactError where both together break a rule of ModelDeployments."""
        theirs = {each.accelerator: each for each in self.model.artifacts}
        artifacts = tuple(theirs[kind] if each.accelerator == kind else each for each in declared.artifacts)
        merged = _merged(declared, msgspec.structs.replace(self.model, artifacts=declared.artifacts))
        merged = msgspec.structs.replace(merged, artifacts=artifacts)
        if problems := [str(problem) for problem in broken_rules(merged, "")]:
            raise ArtifactError("with config.pbtxt: " + "; ".join(problems))
        return merged


def configured(declared: Model, artifact: Artifact) -> ConfiguredModel:
    """The model of this name in the repository that the artifact is. Raises ArtifactError, whose text lists all that is
    refused, by field."""
    try:
        found, folder = _found(declared, artifact)
        kind, backend = artifact.accelerator, backend_of(found.config, found.files)
        if refused := list(refusals(found.config, backend, kind)):
            raise ArtifactError("; ".join(refused))
        document = model_document(found, kind, lambda path: file_uri(folder / path))
        model = msgspec.convert(document, Model)
    except msgspec.ValidationError as error:
        raise ArtifactError(f"config.pbtxt: {error}") from error
    except (ValueError, OSError) as error:
        raise ArtifactError(str(error)) from error
    return ConfiguredModel(model=model, notes=tuple(notes(found.config, backend)))


def format_in_repository(declared: Model, artifact: Artifact) -> str | None:
    """The format that the model there has; None where it cannot be told."""
    try:
        found, _ = _found(declared, artifact)
    except (ArtifactError, ValueError, OSError):
        return None
    return BACKENDS.get(backend_of(found.config, found.files))


def _found(declared: Model, artifact: Artifact) -> tuple[FoundModel, Path]:
    """With its folder, resolved: a fetched artifact may be a link into the node's cache."""
    path = Path(weights_path(artifact.uri or ""))
    folder = model_folder(path, declared.name)
    found = found_model(folder, declared.name, declared.version)
    if folder != path:
        check_name(folder, found.config)
    return found, folder


def _merged(given: Part, found: Part) -> Part:
    """`given` with what it leaves at its default taken from `found`."""
    changes = {}
    for field in msgspec.structs.fields(given):
        mine, theirs = getattr(given, field.name), getattr(found, field.name)
        if mine == theirs:
            continue
        if isinstance(mine, msgspec.Struct) and isinstance(theirs, msgspec.Struct):
            changes[field.name] = _merged(mine, theirs)
        elif mine == default_of(field):
            changes[field.name] = theirs
    return msgspec.structs.replace(given, **changes)
