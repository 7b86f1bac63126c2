"""What is read from the files beside a model, and that nothing is guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from batchwright_worker.api.text_task import TextTask
from batchwright_worker.language.model_files import TaskFilesError, TextFiles, read_files
from tests.language.text_models import SENTENCE_FILES, save_tokenizer, write_json


def read(folder: Path, files: dict[str, Any], **task: Any) -> TextFiles:
    """By a task of a manifest; the model is a file in the folder."""
    save_tokenizer(folder)
    write_json(folder, files)
    return read_files(folder / "model.onnx", msgspec.convert({"type": "Embedding", **task}, TextTask))


def test_files_of_sentence_transformers_say_all(tmp_path: Path) -> None:
    found = read(tmp_path, SENTENCE_FILES)
    assert (found.max_tokens, found.pooling, found.normalize) == (40, "Mean", True)
    assert found.tokenizer == tmp_path / "tokenizer.json"


def test_the_manifest_goes_before_the_files(tmp_path: Path) -> None:
    found = read(tmp_path, SENTENCE_FILES, maxTokens=7, pooling="Cls", normalize=False)
    assert (found.max_tokens, found.pooling, found.normalize) == (7, "Cls", False)


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"tokenizer_config.json": {"model_max_length": 512}}, 512),
        ({"sentence_bert_config.json": {"max_seq_length": 64}, "tokenizer_config.json": {"model_max_length": 512}}, 64),
        ({"sentence_bert_config.json": {"max_seq_length": None}, "tokenizer_config.json": {"model_max_length": 9}}, 9),
    ],
)
def test_the_longest_text(tmp_path: Path, files: dict[str, Any], wanted: int) -> None:
    assert read(tmp_path, files).max_tokens == wanted


def test_the_tokenizers_own_truncation_is_the_last_that_counts(tmp_path: Path) -> None:
    tokenizer = save_tokenizer(tmp_path)
    tokenizer.enable_truncation(128)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    task = TextTask(type="Embedding")
    assert read_files(tmp_path, task).max_tokens == 128
    write_json(tmp_path, {"tokenizer_config.json": {"model_max_length": 1e30}})
    assert read_files(tmp_path, task).max_tokens == 128


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"pooling_mode_cls_token": True}, "Cls"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": True}, "Max"),
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, "LastToken"),
        ({"pooling_mode": "mean", "embedding_dimension": 3}, "Mean"),
        ({"word_embedding_dimension": 3}, None),
    ],
)
def test_the_pooling(tmp_path: Path, config: dict[str, Any], wanted: str | None) -> None:
    files = {**SENTENCE_FILES, "1_Pooling/config.json": config}
    assert read(tmp_path, files).pooling == wanted


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"num_labels": 1}, "Sigmoid"),
        ({"id2label": {"0": "LABEL_0"}}, "Sigmoid"),
        ({"num_labels": 1, "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, "Identity"),
        ({"num_labels": 1, "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, "Identity"),
    ],
)
def test_the_activation_of_a_cross_encoder(tmp_path: Path, config: dict[str, Any], wanted: str) -> None:
    assert read(tmp_path, {"config.json": config}, type="Rerank", maxTokens=9).activation == wanted


def test_prompts_stand_before_texts(tmp_path: Path) -> None:
    config = {"prompts": {"query": "query: ", "document": "passage: "}, "default_prompt_name": "query"}
    found = read(tmp_path, {**SENTENCE_FILES, "config_sentence_transformers.json": config})
    assert (found.default_prompt, found.prompts["document"]) == ("query: ", "passage: ")


def test_a_folder_onnx_has_its_files_above_it(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    write_json(tmp_path, SENTENCE_FILES)
    (tmp_path / "onnx").mkdir()
    assert read_files(tmp_path / "onnx" / "model.onnx", TextTask(type="Embedding")).pooling == "Mean"


@pytest.mark.parametrize(
    ("files", "task", "words"),
    [
        ({}, {}, "write task.maxTokens"),
        ({"config.json": {}}, {"type": "Rerank", "maxTokens": 9}, "write task.activation"),
        ({"config.json": {"num_labels": 3}}, {"type": "Rerank", "maxTokens": 9}, "write task.activation"),
        (
            {"config.json": {"sentence_transformers": {"activation_fn": "torch.nn.Softmax"}}},
            {"type": "Rerank", "maxTokens": 9},
            "Softmax is not served",
        ),
        (
            {**SENTENCE_FILES, "1_Pooling/config.json": {"pooling_mode_weightedmean_tokens": True}},
            {},
            "weightedmean_tokens is not served",
        ),
        (
            {
                **SENTENCE_FILES,
                "1_Pooling/config.json": {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True},
            },
            {},
            "is not served",
        ),
        ({**SENTENCE_FILES, "modules.json": {"type": 3}}, {}, "no list of modules"),
        ({**SENTENCE_FILES, "tokenizer_config.json": [3]}, {}, "no JSON object"),
    ],
)
def test_what_is_not_known_is_not_guessed(
    tmp_path: Path, files: dict[str, Any], task: dict[str, Any], words: str
) -> None:
    with pytest.raises(TaskFilesError, match=words):
        read(tmp_path, files, **task)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(TaskFilesError, match=r"no tokenizer\.json in .* put it beside the model"):
        read_files(tmp_path / "model.onnx", TextTask(type="Embedding"))
