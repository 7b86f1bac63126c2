"""Reads the folder of one model in a Triton model repository: config.pbtxt, folders of versions, labels."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from batchwright_worker.artifacts.names import ArtifactError, checked_name
from batchwright_worker.artifacts.triton.config import CONFIG, read_config
from batchwright_worker.artifacts.triton.mapping import FoundModel, version_of
from batchwright_worker.oip import inference_pb2 as pb

_VERSION: Final = re.compile(r"[1-9][0-9]*")
_SHOWN: Final = 10
_LARGEST_LABELS: Final = 16 << 20


def found_model(folder: Path, name: str, wanted: str | None = None) -> FoundModel:
    """`name`: as callers know it; `wanted`: the version that is served whatever version_policy says. Raises
    ArtifactError, ValueError, OSError."""
    config = read_config(folder)
    version = version_of(config, _versions(folder), wanted)
    files = {f"{each.name}/" if each.is_dir() else each.name for each in (folder / version).iterdir()}
    return FoundModel(name=name, config=config, version=version, files=frozenset(files), labels=_labels(folder, config))


def check_name(folder: Path, config: pb.ModelConfig) -> None:
    """In a repository a model's folder has its name. Raises ArtifactError."""
    if config.name and config.name != folder.name:
        raise ArtifactError(f"{CONFIG} says name {config.name!r}; it has to be that of the folder, or left out")


def model_folder(path: Path, name: str) -> Path:
    """The folder of the model in a repository, or `path` itself where that is a model's own. Raises ArtifactError."""
    if not path.is_dir():
        raise ArtifactError(f"there is no folder {path}: format triton-repository is a model repository, or a model's")
    if (path / CONFIG).is_file():
        return path
    if is_model(path / name):
        return path / name
    if is_model(path):
        return path
    there = sorted(each.name for each in path.iterdir() if is_model(each))
    shown = ", ".join(there[:_SHOWN]) + (", .." if len(there) > _SHOWN else "")
    raise ArtifactError(
        f"{path} has no model {name!r}; it has {shown or 'none'}: a model is a folder of its name with {CONFIG} and "
        "folders of versions (1, 2, ..)"
    )


def is_model(folder: Path) -> bool:
    """Is it the folder of a model in a repository?"""
    return folder.is_dir() and ((folder / CONFIG).is_file() or bool(_versions(folder)))


def _versions(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir() if each.is_dir() and _VERSION.fullmatch(each.name)]


def _labels(folder: Path, config: pb.ModelConfig) -> dict[str, tuple[str, ...]]:
    return {
        output.name: _lines(folder, output.label_filename, f"output {output.name!r}: label_filename")
        for output in config.output
        if output.label_filename
    }


def _lines(folder: Path, name: str, where: str) -> tuple[str, ...]:
    """Callers see them: so no file that somebody else keeps beside the repository, by a path or a link."""
    path = folder / checked_name(name, where)
    if not path.resolve().is_relative_to(folder.parent.resolve()):
        raise ArtifactError(f"{where} {name!r} is a link out of the repository: put the file itself there")
    try:
        if path.stat().st_size > _LARGEST_LABELS:
            raise ArtifactError(f"{where} {name!r}: it is larger than {_LARGEST_LABELS} bytes")
        text = path.read_text(encoding="utf-8").removesuffix("\n")
        # Not at form feeds and the like, as splitlines: the classes behind one would have their neighbours' names.
        return tuple(text.split("\n")) if text else ()
    except OSError as error:
        raise ArtifactError(f"{where} {name!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{where} {name!r} is no UTF-8: {error}") from error
