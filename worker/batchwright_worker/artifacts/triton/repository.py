"""A Triton model repository on this machine as the ModelDeployment that serves all of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final

from batchwright_worker.api.documents import ManifestError
from batchwright_worker.api.names import API_VERSION, KIND_CPU
from batchwright_worker.artifacts.names import ArtifactError
from batchwright_worker.artifacts.triton.config import CONFIG
from batchwright_worker.artifacts.triton.folders import check_name, found_model
from batchwright_worker.artifacts.triton.mapping import Document, backend_of, model_document
from batchwright_worker.artifacts.triton.refusals import notes, refusals
from batchwright_worker.oip import inference_pb2 as pb

_NO_NAME: Final = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """The ModelDeployment of a repository, and what is different here without changing an answer."""

    document: Document
    notes: tuple[str, ...]


def read_repository(
    folder: Path, uri_of: Callable[[PurePosixPath], str], kind: str | None = None, chosen: Collection[str] = ()
) -> Repository:
    """`kind`: the accelerator to serve on (None: the CPU); `chosen`: only these models (none: all). Raises
    ManifestError, which lists everything that is refused, by model and field."""
    kind = kind or KIND_CPU
    names = sorted(each.name for each in _folders(folder) if not chosen or each.name in chosen)
    if missing := sorted(set(chosen) - set(names)):
        raise ManifestError(f"{folder} has no model {', '.join(missing)}; it has {', '.join(names) or 'none'}")
    if not names:
        raise ManifestError(f"{folder} holds no model: each is a folder with {CONFIG} and a folder 1 with its file")
    models, refused, told = [], [], []
    groups: list[pb.ModelInstanceGroup] = []
    for name in names:
        try:
            found = found_model(folder / name, name)
            check_name(folder / name, found.config)
            backend = backend_of(found.config, found.files)
            problems = list(refusals(found.config, backend, kind))
            refused += [f"{name}: {problem}" for problem in problems]
            told += [f"{name}: {note}" for note in notes(found.config, backend)]
            groups += found.config.instance_group
            if not problems:
                models.append(model_document(found, kind, partial(_below, uri_of, name)))
        except (ArtifactError, ValueError, OSError) as error:
            refused.append(f"{name}: {error}")
    if refused:
        raise ManifestError("the repository is not served as it is:\n" + "\n".join(refused))
    spec: Document = {"models": models, "repositoryControl": True}
    if (devices := max((len(group.gpus) for group in groups), default=1)) > 1 and kind != KIND_CPU:
        spec["runtimes"] = [{"accelerator": kind, "count": devices}]
    document = {
        "apiVersion": API_VERSION,
        "kind": "ModelDeployment",
        "metadata": {"name": _NO_NAME.sub("-", folder.resolve().name.lower()).strip("-") or "models"},
        "spec": spec,
    }
    return Repository(document=document, notes=tuple(told))


def _folders(folder: Path) -> list[Path]:
    """Of models. Raises ManifestError."""
    try:
        return [each for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")]
    except OSError as error:
        raise ManifestError(f"{folder}: {error.strerror}: give the folder of a model repository") from error


def _below(uri_of: Callable[[PurePosixPath], str], model: str, path: PurePosixPath) -> str:
    return uri_of(PurePosixPath(model) / path)
