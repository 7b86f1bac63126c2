"""Python models as Triton has them: the script's `TritonPythonModel`, whose `execute` gets requests, gives responses.

The artifact is the model's folder in a model repository, with config.pbtxt; the script is VERSION/model.py in it. What
it imports as `triton_python_backend_utils` is `triton_python_backend_utils.py` here. A batch of rows is one request of
so many rows, as a caller of Triton may send it too.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from batchwright_worker.artifacts.names import ArtifactError
from batchwright_worker.artifacts.triton.config import config_json, read_config
from batchwright_worker.backends import triton_python_backend_utils as pb_utils
from batchwright_worker.backends.base import Host, LoadError
from batchwright_worker.backends.scripts import attribute, check_declared, script
from batchwright_worker.host.accelerators import accelerator_of
from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import TensorSpec, WrongOutputs
from batchwright_worker.ipc.messages import ModelSource


class TritonPythonModel:
    """See the module."""

    def __init__(self, model: Any, source: ModelSource) -> None:
        self._model = model
        self._name = source.name
        self.inputs: Sequence[TensorSpec] = source.inputs
        self.outputs: Sequence[TensorSpec] = source.outputs

    def run(self, inputs: Mapping[str, Array], rows: int) -> Mapping[str, Any]:
        """As LoadedModel.run; the model gets copies, because it may keep what it is given."""
        request = pb_utils.InferenceRequest(
            inputs=[pb_utils.Tensor(name, np.array(array)) for name, array in inputs.items()],
            requested_output_names=[spec.name for spec in self.outputs],
            model_name=self._name,
        )
        responses = self._model.execute([request])
        if not isinstance(responses, list) or len(responses) != 1 or responses[0] is None:
            raise WrongOutputs("execute must return a list with one InferenceResponse for each request")
        [response] = responses
        if response.has_error():
            raise pb_utils.TritonModelException(response.error().message())
        return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}

    def close(self) -> None:
        """Calls the model's finalize, if it has one."""
        if hasattr(self._model, "finalize"):
            self._model.finalize()
        self._model = None


def load(source: ModelSource, host: Host) -> TritonPythonModel:
    """Imports the script, makes its `TritonPythonModel` and initializes it."""
    check_declared(source)
    folder, file = Path(source.path), Path(source.script)
    try:
        config = read_config(folder)
    except ArtifactError as error:
        raise LoadError(str(error)) from error
    config.name = config.name or source.name
    sys.modules["triton_python_backend_utils"] = pb_utils
    model = attribute(script(source), "TritonPythonModel", source)()
    if hasattr(model, "initialize"):
        accelerator = accelerator_of(host.kind)
        on_gpu = accelerator is not None and accelerator.torch_device == "cuda"
        model.initialize(
            {
                "model_config": config_json(config),
                "model_instance_kind": "GPU" if on_gpu else "CPU",
                "model_instance_name": f"{source.name}_0_0",
                "model_instance_device_id": "0",
                "model_repository": str(folder),
                "model_version": file.parent.name,
                "model_name": source.name,
            }
        )
    return TritonPythonModel(model, source)
