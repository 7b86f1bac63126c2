"""Loaders of the model formats behind one protocol (`base`). Each is imported when the first model of its format is
loaded: a library costs seconds and hundreds of megabytes."""

from __future__ import annotations

import importlib
from pathlib import Path

import msgspec

from batchwright_worker.api.formats import FORMATS
from batchwright_worker.artifacts.entry import entry_of
from batchwright_worker.artifacts.names import ArtifactError
from batchwright_worker.backends.base import Host, LoadedModel, LoadError
from batchwright_worker.ipc.messages import ModelSource


def load(source: ModelSource, host: Host) -> LoadedModel:
    """Load a model with its format's loader. Raises LoadError, OutOfDeviceMemoryError or what the library raises."""
    known = FORMATS.get(source.format)
    if known is None or not known.loader:
        loaded = [each.name for each in FORMATS.values() if each.loader]
        raise LoadError(f"format {source.format!r} is unknown; one of {', '.join(loaded)}")
    loader = importlib.import_module(f"{__name__}.{known.loader}")
    model: LoadedModel = loader.load(with_entry(source), host)
    return model


def with_entry(source: ModelSource) -> ModelSource:
    """With the path of the model's file where the artifact is a folder. Raises LoadError."""
    try:
        entry = entry_of(source.format, Path(source.path)) if source.path else None
    except ArtifactError as error:
        raise LoadError(f"model {source.name!r}: {error}") from error
    return source if entry is None else msgspec.structs.replace(source, path=str(entry))
