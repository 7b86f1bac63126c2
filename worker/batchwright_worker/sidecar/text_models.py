"""The models with a task: their tokenizers are loaded when the sidecar starts."""

from __future__ import annotations

from pathlib import Path

from batchwright_worker.api.deployment import ModelDeployment
from batchwright_worker.api.names import weights_path
from batchwright_worker.engine.loader import artifact_for
from batchwright_worker.language.model_files import TaskFilesError
from batchwright_worker.language.text_model import TextModel
from batchwright_worker.sidecar.settings import SidecarFailed


def text_models_of(deployment: ModelDeployment, kind: str) -> dict[str, TextModel]:
    """By name. Raises SidecarFailed: texts that are read in another way than the model was trained with would have
    answers all the same, and nobody would see that they are wrong."""
    found = {}
    for model in deployment.spec.models:
        artifact = artifact_for(model, kind)
        if model.task is None or artifact is None or artifact.uri is None:
            continue
        try:
            found[model.name] = TextModel.of(model, Path(weights_path(artifact.uri)))
        except TaskFilesError as error:
            raise SidecarFailed(f"model {model.name}: {error}") from error
    return found
