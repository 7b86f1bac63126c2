"""What lies in a folder of models, as others put it there (a storage initializer at /mnt/models), as manifests.

In this order: a ModelDeployment in a YAML file; a model of a Triton model repository, or a whole one; a model file that
says itself what its inputs are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from batchwright_worker.api.documents import Document, ManifestError, load_manifests
from batchwright_worker.api.formats import FORMATS, TRITON_REPOSITORY
from batchwright_worker.api.names import API_VERSION, KIND_CPU
from batchwright_worker.api.uris import file_uri
from batchwright_worker.artifacts.entry import entry_of
from batchwright_worker.artifacts.names import ArtifactError
from batchwright_worker.artifacts.triton.config import CONFIG
from batchwright_worker.artifacts.triton.folders import is_model
from batchwright_worker.artifacts.triton.repository import read_repository

_MANIFESTS: Final = (".yaml", ".yml")
_OURS: Final = re.compile(r"^kind: *ModelDeployment *$", re.MULTILINE)
_LARGEST_MANIFEST: Final = 1 << 20
_NO_NAME: Final = re.compile(r"[^a-z0-9]+")
_SHOWN: Final = 10
_ALONE: Final = tuple(
    each.name for each in FORMATS.values() if each.entries and each.declares_signature and not each.needs_script
)
"""Formats of which a file is all that there is to know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundModels:
    """The manifests, and what is different here from what a Triton repository says without changing an answer."""

    documents: list[Document]
    notes: tuple[str, ...] = ()


def found_models(path: Path, name: str, kind: str | None = None) -> FoundModels:
    """`path`: a folder, or a model file; `name`: of a model that has none of its own; `kind`: the accelerator that it
    is for (None: the CPU). Raises ManifestError, which says what was looked for."""
    if not path.exists():
        raise ManifestError(f"there is no folder {path}: give the one where the models lie")
    folder = path.absolute()
    if folder.is_file():
        return _single(folder, name, kind)
    if manifests := [each for each in sorted(folder.iterdir()) if _is_manifest(each)]:
        return FoundModels(documents=load_manifests(manifests))
    if is_model(folder):
        artifact = {"format": TRITON_REPOSITORY, "uri": _folder_uri(folder)}
        return FoundModels(documents=[_deployment(name, artifact, kind)])
    if models := [each.name for each in folder.iterdir() if is_model(each)]:
        found = read_repository(folder, lambda below: file_uri(folder / below), kind, models)
        found.document["spec"].pop("repositoryControl")  # whoever reaches the port could take models away
        return FoundModels(documents=[found.document], notes=found.notes)
    return _single(folder, name, kind)


def _is_manifest(path: Path) -> bool:
    """Folders of models have YAML of others, too."""
    if path.suffix not in _MANIFESTS or not path.is_file() or path.stat().st_size > _LARGEST_MANIFEST:
        return False
    return _OURS.search(path.read_text(errors="replace")) is not None


def _single(path: Path, name: str, kind: str | None) -> FoundModels:
    for format_ in _ALONE:
        suffix = Path(FORMATS[format_].entries[0]).suffix
        try:
            there = entry_of(format_, path).is_file() and (path.is_dir() or path.suffix == suffix)
        except ArtifactError as error:
            if path.is_dir() and any(each.suffix == suffix for each in path.iterdir()):
                raise ManifestError(str(error)) from error  # several of them
            continue
        if there:
            uri = _folder_uri(path) if path.is_dir() else file_uri(path)
            return FoundModels(documents=[_deployment(name, {"format": format_, "uri": uri}, kind)])
    there_are = sorted(each.name + "/" * each.is_dir() for each in path.iterdir()) if path.is_dir() else [path.name]
    shown = ", ".join(there_are[:_SHOWN]) + (", .." if len(there_are) > _SHOWN else "")
    raise ManifestError(
        f"{path} has no model that is served as it lies: a ModelDeployment in a YAML file, {CONFIG} or folders of "
        f"versions of a Triton model repository, model.onnx or model.pt2; there are: {shown or 'no files'}. A model of "
        "another format goes with a ModelDeployment beside it, or a config.pbtxt"
    )


def _folder_uri(folder: Path) -> str:
    return f"{file_uri(folder)}/"


def _deployment(name: str, artifact: dict[str, Any], kind: str | None) -> Document:
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelDeployment",
        "metadata": {"name": _NO_NAME.sub("-", name.lower()).strip("-") or "models"},
        "spec": {"models": [{"name": name, "artifacts": [{"accelerator": kind or KIND_CPU, **artifact}]}]},
    }
