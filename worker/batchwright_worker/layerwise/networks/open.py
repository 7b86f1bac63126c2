"""Opens a model's artifact as a network of units, for the processor of its host (CPU or GPU), by its format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from batchwright_worker.api.formats import DIVISIBLE
from batchwright_worker.backends import with_entry
from batchwright_worker.backends.base import Host
from batchwright_worker.ipc.messages import ModelSource
from batchwright_worker.layerwise.networks.units import Network, NotDivisible

__all__ = ["open_network"]


def open_network(source: ModelSource, host: Host, cache: Path, limit_bytes: int, least_bytes: int = 0) -> Network:
    """Cut so that no unit is larger than `limit_bytes` or smaller than `least_bytes`, where that can be; prepared once,
    below `cache`.

    Raises NotDivisible (this model cannot run unit by unit), LoadError (it cannot be loaded at all).
    """
    source = with_entry(source)
    folder_of: Callable[[str], Path] = lambda digest: cache / digest  # noqa: E731
    if source.format == "onnx":
        from batchwright_worker.layerwise.networks.onnx import open_onnx

        return open_onnx(source, host, folder_of, limit_bytes, least_bytes)
    if source.format in DIVISIBLE:
        from batchwright_worker.layerwise.networks.torch import open_torch

        return open_torch(source, host, folder_of, limit_bytes, least_bytes)
    raise NotDivisible(
        f"format {source.format} cannot be cut into layers; layerwise serves {', '.join(DIVISIBLE)}: "
        'export the model, or write layerwise: {mode: "Off"}'
    )
