"""Objects as programs build them: typed specs in, what kubectl would be given out, checked as the API server would."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from batchwright_worker.api.defaults import without_defaults
from batchwright_worker.api.deployment import ModelDeploymentSpec
from batchwright_worker.api.documents import Document, ManifestError, load_manifests, validate
from batchwright_worker.api.job import InferenceJobSpec
from batchwright_worker.api.names import API_VERSION
from batchwright_worker.api.validation import Problem


class InvalidManifest(ValueError):  # noqa: N818 - what the manifest is
    """What the API server would refuse; `problems` has all of it, with field and remedy."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object; `document` is what a file for kubectl would hold."""

    document: Document

    @property
    def kind(self) -> str:
        """ModelDeployment or InferenceJob, or any other."""
        return str(self.document.get("kind", ""))

    @property
    def name(self) -> str:
        """`metadata.name`."""
        return str(self.document["metadata"]["name"])

    @property
    def namespace(self) -> str | None:
        """`metadata.namespace`; None: that of the context it is applied in."""
        given: str | None = self.document["metadata"].get("namespace")
        return given

    def problems(self) -> list[Problem]:
        """What the API server would refuse, all at once; empty for a good one."""
        return validate(self.document)

    def checked(self) -> Manifest:
        """Itself. Raises InvalidManifest."""
        if problems := self.problems():
            raise InvalidManifest(problems)
        return self

    def yaml(self) -> str:
        """For a file, or `kubectl apply -f -`."""
        return yaml.safe_dump(self.document, sort_keys=False)


def model_deployment(
    name: str,
    spec: ModelDeploymentSpec,
    *,
    namespace: str | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Manifest:
    """A ModelDeployment. Raises InvalidManifest."""
    return _manifest(
        "ModelDeployment", name, spec, {"namespace": namespace, "labels": labels, "annotations": annotations}
    )


def inference_job(
    name: str,
    spec: InferenceJobSpec,
    *,
    namespace: str | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Manifest:
    """An InferenceJob. Raises InvalidManifest."""
    return _manifest("InferenceJob", name, spec, {"namespace": namespace, "labels": labels, "annotations": annotations})


def load(*paths: Path | str) -> list[Manifest]:
    """The objects of YAML or JSON files, as written. Raises InvalidManifest."""
    try:
        return [Manifest(document) for document in load_manifests(map(Path, paths))]
    except ManifestError as error:
        raise InvalidManifest([Problem(field="file", message=str(error), remedy="correct it")]) from error


def _manifest(kind: str, name: str, spec: msgspec.Struct, metadata: Mapping[str, Any]) -> Manifest:
    """Without what is at its default: the object then says what its author has said."""
    given = {key: dict(value) if isinstance(value, Mapping) else value for key, value in metadata.items() if value}
    document = {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name, **given},
        "spec": without_defaults(spec),
    }
    return Manifest(document).checked()
