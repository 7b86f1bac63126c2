"""Which files of an MLflow model are the artifact of a format, by the model's flavors; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from batchwright_worker.fetch.errors import FetchRefused

_FLAVORS: Final[Mapping[str, str]] = {"onnx": "onnx", "torch-export": "pytorch", "torchscript": "pytorch"}
"""Format -> flavor."""
_GENERIC: Final = "python_function"


def folder_of(flavors: Mapping[str, Any], format_: str, uri: str) -> str:
    """The folder within the model whose files are the artifact, empty for all, else ending in a slash. A script
    (format python) gets all, whatever the flavor. Raises FetchRefused."""
    if format_ == "python":
        return ""
    own = [name for name in flavors if name != _GENERIC] or list(flavors)
    wanted = _FLAVORS.get(format_, "")
    if wanted not in flavors or not isinstance(flavors[wanted], Mapping):
        raise FetchRefused(
            f"{uri}: its flavor is {' and '.join(own) or 'not told'}, and format {format_} takes "
            f"{wanted or 'none of MLflow'}: log it with mlflow.onnx (format: onnx) or mlflow.pytorch "
            '(serialization_format="pt2", format: torch-export), or write format: python and a script that loads it'
        )
    data = str(flavors[wanted].get("model_data") or "")
    return f"{data.strip('/')}/" if data else ""
