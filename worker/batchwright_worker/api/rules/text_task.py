"""Rules between the fields of a model's task; see `manifest_rules`."""

from __future__ import annotations

from typing import Final

from batchwright_worker.api.model import Model
from batchwright_worker.api.rules.rule import Rule
from batchwright_worker.api.text_task import TextTask

_OF_VECTORS: Final = ("pooling", "normalize", "dimensions", "rerankByCosine")


def _only_of_its_type(task: TextTask) -> bool:
    if task.type == "Embedding":
        return task.activation is None
    return task.pooling is None and task.normalize is None and not task.dimensions and not task.rerank_by_cosine


RULES: Final = (
    Rule(
        on=TextTask,
        names="type",
        cel="self.type == 'Embedding' ? !has(self.activation) : !has(self.pooling) && !has(self.normalize) && "
        "(!has(self.dimensions) || size(self.dimensions) == 0) && "
        "(!has(self.rerankByCosine) || !self.rerankByCosine)",
        holds=_only_of_its_type,
        wrong=f"{', '.join(_OF_VECTORS)} are of type Embedding, activation is of type Rerank",
        remedy="remove what is of the other type",
    ),
    Rule(
        on=Model,
        names="task",
        cel="!has(self.task) || !has(self.batching) || !has(self.batching.mode) || self.batching.mode == 'Rows'",
        holds=lambda model: model.task is None or model.batching.mode != "Whole",
        wrong="each text is a row, and with batching.mode Whole there are none",
        remedy="remove batching.mode, or task",
    ),
    Rule(
        on=Model,
        names="task",
        cel="!has(self.task) || self.artifacts.all(a, has(a.uri))",
        holds=lambda model: model.task is None or all(artifact.uri for artifact in model.artifacts),
        wrong="its tokenizer.json lies beside the model, and an artifact has no uri",
        remedy="write the uri of the model's folder, or remove task",
    ),
)
