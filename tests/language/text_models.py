"""Small models of texts as ONNX, with the files of sentence-transformers beside them, and what they answer by numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tokenizers
from onnx import numpy_helper

WORDS = "the cat sat on a mat dog ran far away some more words and then".split()  # noqa: SIM905
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
TABLE = np.random.default_rng(3).normal(size=(len(SPECIAL) + len(WORDS), 6)).astype(np.float32)
MOST = 40

_VECTORS = """
<ir_version: 8, opset_import: ["" : 17]>
vectors (int64[n, t] input_ids, int64[n, t] attention_mask) => ({outputs})
{{
  words = Gather(table, input_ids)
  last = Constant<value_ints = [2]>()
  kept = Cast<to = 1>(attention_mask)
  weights = Unsqueeze(kept, last)
  masked = Mul(words, weights)
  one = Constant<value_ints = [1]>()
  sums = ReduceSum<keepdims = 1>(masked, one)
  counts = ReduceSum<keepdims = 1>(weights, one)
  mean = Div(sums, counts)
  last_hidden_state = Add(words, mean)
  sentence_embedding = Squeeze(mean, one)
}}
"""
_PAIRS = """
<ir_version: 8, opset_import: ["" : 17]>
pairs (int64[n, t] input_ids, int64[n, t] attention_mask, int64[n, t] token_type_ids) => (float[n, 1] logits)
{
  words = Gather(table, input_ids)
  last = Constant<value_ints = [2]>()
  one = Constant<value_ints = [1]>()
  kept = Cast<to = 1>(attention_mask)
  second = Cast<to = 1>(token_type_ids)
  whole = Unsqueeze(kept, last)
  of_document = Unsqueeze(second, last)
  of_query = Sub(whole, of_document)
  document_words = Mul(words, of_document)
  query_words = Mul(words, of_query)
  document = ReduceSum<keepdims = 0>(document_words, one)
  query = ReduceSum<keepdims = 0>(query_words, one)
  product = Mul(document, query)
  logits = ReduceSum<keepdims = 1>(product, one)
}
"""
_OUTPUTS = {
    "token": "float[n, t, 6] last_hidden_state",
    "sentence": "float[n, 6] sentence_embedding",
    "both": "float[n, t, 6] last_hidden_state, float[n, 6] sentence_embedding",
}


def save_model(path: Path, kind: str) -> Path:
    """`token` (a vector of each token, which knows the others), `sentence` (their mean), `both`, or `pairs`."""
    text = _PAIRS if kind == "pairs" else _VECTORS.format(outputs=_OUTPUTS[kind])
    graph = text.split("{\n", 1)
    table = f"<float[{TABLE.shape[0]}, {TABLE.shape[1]}] table>\n"
    model = onnx.parser.parse_model(graph[0] + table + "{\n" + graph[1])
    del model.graph.initializer[:]
    model.graph.initializer.append(numpy_helper.from_array(TABLE, "table"))
    onnx.save(model, path)
    return path


def save_tokenizer(folder: Path) -> tokenizers.Tokenizer:
    """Words, with [CLS] and [SEP]."""
    numbers = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def write_json(folder: Path, files: dict[str, Any]) -> None:
    """By name."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))


SENTENCE_FILES: dict[str, Any] = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ],
    "1_Pooling/config.json": {
        "word_embedding_dimension": 6,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
    },
    "sentence_bert_config.json": {"max_seq_length": MOST, "do_lower_case": False},
    "tokenizer_config.json": {"model_max_length": 512},
}


def folder_of(root: Path, name: str, kind: str, files: dict[str, Any]) -> Path:
    """A model's folder."""
    folder = root / name
    folder.mkdir()
    save_model(folder / "model.onnx", kind)
    save_tokenizer(folder)
    write_json(folder, files)
    return folder


def entry(folder: Path, **task: Any) -> dict[str, Any]:
    """The model of a manifest that is in this folder."""
    return {
        "name": folder.name,
        "artifacts": [{"format": "onnx", "uri": f"{folder.as_uri()}/"}],
        "batching": {"mode": "Rows"},
        "task": task,
    }


def vector(ids: list[int], *, per_token: bool) -> np.ndarray:
    """What `token` with mean pooling, or `sentence`, makes of one text alone: of length 1."""
    words = TABLE[ids]
    found = (words + words.mean(0)).mean(0) if per_token else words.mean(0)
    return np.asarray(found / np.linalg.norm(found))


def logit(ids: list[int], types: list[int]) -> float:
    """What `pairs` makes of one pair alone."""
    second = np.array(types)[:, None]
    return float((TABLE[ids] * second).sum(0) @ (TABLE[ids] * (1 - second)).sum(0))
