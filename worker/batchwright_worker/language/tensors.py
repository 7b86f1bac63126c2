"""Which of a model's tensors take tokens, and which one has the answer. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Final

from batchwright_worker.api.text_task import TextTask
from batchwright_worker.engine.engine import ModelMetadata
from batchwright_worker.inference.runtime import TensorSpec
from batchwright_worker.language.errors import TaskUnusable
from batchwright_worker.language.model_files import TextFiles

IDS: Final = "input_ids"
MASK: Final = "attention_mask"
TYPES: Final = "token_type_ids"
_KNOWN_OUTPUTS: Final = ("sentence_embedding", "last_hidden_state", "token_embeddings", "logits")
"""As sentence-transformers and transformers name them in their exports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTensors:
    """`datatypes` of the inputs by name; `tokens` is the fixed length of a row, -1 where it varies; `per_token`: the
    output has a vector of each token; `row_elements`: at most so many numbers are in a row of it."""

    datatypes: dict[str, str]
    tokens: int
    output: str
    row_elements: int
    per_token: bool

    @property
    def is_masked(self) -> bool:
        """Can a row be filled up without a change of its answer?"""
        return MASK in self.datatypes


def text_tensors(known: ModelMetadata, task: TextTask, files: TextFiles) -> TextTensors:
    """Raises TaskUnusable."""
    if not known.max_batch_size:
        raise TaskUnusable(f"model {known.name} is served whole, so texts cannot be its rows; its message says why")
    inputs = {spec.name: spec for spec in known.inputs}
    _check_inputs(known.name, inputs)
    output = _output(known, task)
    per_token = task.type == "Embedding" and len(output.shape) == 2
    if per_token:
        _check_pooling(known.name, output, files)
    elif len(output.shape) != 1 if task.type == "Embedding" else output.shape not in ((), (1,)):
        wanted = "one vector of each text or of each token" if task.type == "Embedding" else "one number of each pair"
        raise TaskUnusable(
            f"output {output.name!r} of model {known.name} has rows of {list(output.shape)}, not {wanted}"
        )
    tokens = inputs[IDS].shape[0]
    if 0 <= tokens < files.max_tokens:
        raise TaskUnusable(
            f"model {known.name} takes {tokens} tokens, and a text may have {files.max_tokens} by its files: write "
            f"task.maxTokens: {tokens}"
        )
    return TextTensors(
        datatypes={name: spec.datatype for name, spec in inputs.items()},
        tokens=tokens,
        output=output.name,
        row_elements=abs(prod(output.shape)) * (files.max_tokens if per_token and output.shape[0] < 0 else 1),
        per_token=per_token,
    )


def _check_inputs(model: str, inputs: dict[str, TensorSpec]) -> None:
    strange = sorted(inputs.keys() - {IDS, MASK, TYPES})
    if IDS not in inputs or strange:
        raise TaskUnusable(
            f"model {model} takes {sorted(inputs)}: a model of texts takes {IDS}, and {MASK} and {TYPES} if need be"
        )
    for name, spec in inputs.items():
        if not spec.batched or len(spec.shape) != 1 or spec.datatype not in ("INT64", "INT32"):
            raise TaskUnusable(f"input {name!r} of model {model} must be rows of INT64 or INT32 tokens")


def _output(known: ModelMetadata, task: TextTask) -> TensorSpec:
    outputs = {spec.name: spec for spec in known.outputs}
    wanted = [task.output] if task.output is not None else _KNOWN_OUTPUTS if len(outputs) > 1 else [*outputs]
    for name in wanted:
        if name in outputs and outputs[name].batched:
            return outputs[name]
    raise TaskUnusable(f"model {known.name} gives {sorted(outputs)}: write in task.output which one has the answer")


def _check_pooling(model: str, output: TensorSpec, files: TextFiles) -> None:
    if files.pooling is None:
        raise TaskUnusable(
            f"output {output.name!r} of model {model} has a vector of each token, and no file says how they become "
            "one: write task.pooling"
        )
    if files.other_modules:
        raise TaskUnusable(
            f"output {output.name!r} of model {model} has a vector of each token, and {', '.join(files.other_modules)} "
            "of modules.json would have to follow: export the model with all its modules"
        )
