"""Kinds of models behind one protocol (`base`), each imported when a model of its format is loaded."""

from __future__ import annotations

import importlib
from typing import Final

from batchwright_worker.backends.base import Host, LoadedModel, LoadError
from batchwright_worker.ipc.messages import ModelSource

LOADERS: Final = {
    "onnx": "batchwright_worker.backends.onnx",
    "torch-export": "batchwright_worker.backends.torch",
    "torchscript": "batchwright_worker.backends.torch",
    "safetensors": "batchwright_worker.backends.torch",
    "python": "batchwright_worker.backends.python",
    "emulated": "batchwright_worker.backends.emulated",
}
"""Format -> module with `load(source, host) -> LoadedModel`."""


def load(source: ModelSource, host: Host) -> LoadedModel:
    """Load a model with its format's loader. Raises LoadError, OutOfDeviceMemoryError or what the library raises."""
    module = LOADERS.get(source.format)
    if module is None:
        raise LoadError(f"format {source.format!r} is unknown; one of {', '.join(LOADERS)}")
    model: LoadedModel = importlib.import_module(module).load(source, host)
    return model
