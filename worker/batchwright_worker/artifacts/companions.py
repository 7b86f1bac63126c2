"""The files that belong to a model file: it names them, and they lie beside it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from batchwright_worker.artifacts.names import ArtifactError, checked_names
from batchwright_worker.artifacts.onnx_weights import external_locations

INDEX_SUFFIX = ".safetensors.index.json"
_LARGEST_INDEX = 64 << 20


class _Index(msgspec.Struct):
    """`model.safetensors.index.json`: which file each tensor is in."""

    weight_map: dict[str, str]


def format_of(path: Path) -> str:
    """The format whose files name others, as the file's name tells; else empty."""
    if path.name.endswith(INDEX_SUFFIX):
        return "safetensors"
    return "onnx" if path.suffix == ".onnx" else ""


def companions(format_: str, path: Path) -> list[str]:
    """Names of the files beside `path` that it needs: external data of an ONNX model, the shards of a safetensors
    index; [] of anything else. Raises ArtifactError for names that leave the folder, and for an index that is none."""
    if format_ == "onnx":
        named = external_locations(path)
    elif format_ == "safetensors" and path.suffix == ".json":
        named = list(dict.fromkeys(weight_map(path).values()))
    else:
        return []
    found = checked_names(named, path.name)
    if path.name in found:
        raise ArtifactError(f"{path.name} names itself as a file that its weights are in")
    return found


def weight_map(path: Path) -> dict[str, str]:
    """Tensor -> file of a safetensors index. Raises ArtifactError."""
    if path.stat().st_size > _LARGEST_INDEX:
        raise ArtifactError(f"{path.name} is larger than {_LARGEST_INDEX} bytes: no index of safetensors files")
    try:
        index = msgspec.json.decode(path.read_bytes(), type=_Index)
    except msgspec.MsgspecError as error:
        raise ArtifactError(
            f"{path.name} is no index of safetensors files ({error}); it has a weight_map of tensor to file"
        ) from error
    return index.weight_map
