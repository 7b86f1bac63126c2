"""A model that is a Python class: the script's `Model`, made with the artifact's path ("" where it has none).

    class Model:
        def __init__(self, path: str) -> None: ...
        def infer(self, inputs: dict[str, ndarray]) -> dict[str, ndarray]: ...   # batch dimension first, where batched
        def close(self) -> None: ...                                              # optional

`infer` may raise `BadRowsError({row: why})` for the rows that it cannot do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from batchwright_worker.backends.base import Host
from batchwright_worker.backends.scripts import attribute, check_declared, script
from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import TensorSpec, WrongOutputs
from batchwright_worker.ipc.messages import ModelSource


class PythonModel:
    """See the module."""

    def __init__(self, model: Any, source: ModelSource) -> None:
        self._model = model
        self.inputs: Sequence[TensorSpec] = source.inputs
        self.outputs: Sequence[TensorSpec] = source.outputs

    def run(self, inputs: Mapping[str, Array], rows: int) -> Mapping[str, Any]:
        """As LoadedModel.run; the class gets copies, because it may keep what it is given."""
        outputs = self._model.infer({name: np.array(array) for name, array in inputs.items()})
        if not isinstance(outputs, dict):
            raise WrongOutputs(
                f"infer returned a {type(outputs).__name__}; it must return a dict of output name to array"
            )
        return outputs

    def close(self) -> None:
        """Calls the class's close, if it has one."""
        if hasattr(self._model, "close"):
            self._model.close()
        self._model = None


def load(source: ModelSource, host: Host) -> PythonModel:
    """Imports the script and makes its `Model`."""
    check_declared(source)
    maker = attribute(script(source), "Model", source)
    return PythonModel(maker(source.path), source)
