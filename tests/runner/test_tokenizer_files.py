"""The built-in tokenize with a tokenizer.json, for models that are no BERT."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from tests.runner.test_builtin_functions import item, run


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Byte pairs of a few words, with special tokens of its own."""
    library = importlib.import_module("tokenizers")
    tokenizer = library.Tokenizer(library.models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = library.pre_tokenizers.Whitespace()
    trainer = library.trainers.BpeTrainer(special_tokens=["<pad>", "<unk>", "<s>", "</s>"], vocab_size=60)
    tokenizer.train_from_iterator(["some words and some more words"] * 4, trainer)
    tokenizer.post_processor = library.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return str(tmp_path / "tokenizer.json")


def test_it_gives_what_the_library_gives_padded_to_a_multiple(path: str) -> None:
    library = importlib.import_module("tokenizers")
    wanted = library.Tokenizer.from_file(path).encode("some more words").ids
    row = item("tokenize", "some more words", tokenizer=path, multiple=8)
    assert row["input_ids"].dtype == np.int64
    assert row["input_ids"].tolist() == wanted + [0] * (-len(wanted) % 8)
    assert row["attention_mask"].sum() == len(wanted)


@pytest.mark.parametrize("words", [*range(40), 90, 100, 127, 200])
def test_it_is_padded_by_an_eighth_at_most(path: str, words: int) -> None:
    row = item("tokenize", " ".join(["a"] * words), tokenizer=path, max_length=200)
    tokens, length = int(row["attention_mask"].sum()), len(row["input_ids"])
    assert min(words + 2, 200) == tokens <= length <= min(200, max(tokens, tokens * 9 / 8))


def test_few_lengths_are_left(path: str) -> None:
    texts = (" ".join(["a"] * words) for words in range(254))
    assert len({len(item("tokenize", text, tokenizer=path)["input_ids"]) for text in texts}) <= 48


def test_a_multiple_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"args\.multiple is 0"):
        item("tokenize", "words", tokenizer=path, multiple=0)


def test_it_is_cut_with_its_special_tokens(path: str) -> None:
    row = item("tokenize", "some more words and words", tokenizer=path, max_length=4, multiple=1)
    assert (len(row["input_ids"]), row["input_ids"][0], row["input_ids"][-1]) == (4, 2, 3)


def test_names_leave_inputs_out(path: str) -> None:
    row = item("tokenize", "words", tokenizer=path, names={"token_type_ids": ""})
    assert sorted(row) == ["attention_mask", "input_ids"]


def test_one_of_both_files_is_needed() -> None:
    with pytest.raises(ValueError, match="give either args"):
        run("tokenize", "text")
