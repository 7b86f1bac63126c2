"""One `serve` with models of texts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tokenizers

from tests.language.text_models import SENTENCE_FILES, entry, folder_of, save_tokenizer
from tests.protocol.serving import Served, emulated_model, manifest, serving


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> tokenizers.Tokenizer:
    """That of all models."""
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`token` and `sentence` (embeddings), `near` (embeddings that rerank, and may be cut), `pairs` (cross-encoder),
    `short` (its texts are cut), `tensors` (no task), `unpooled` (no file says how)."""
    root = tmp_path_factory.mktemp("texts")
    models = [
        entry(folder_of(root, "token", "token", SENTENCE_FILES), type="Embedding"),
        entry(folder_of(root, "sentence", "both", SENTENCE_FILES), type="Embedding"),
        entry(
            folder_of(root, "near", "sentence", SENTENCE_FILES),
            type="Embedding", rerankByCosine=True, dimensions=[4],
        ),
        entry(folder_of(root, "pairs", "pairs", {"config.json": {"num_labels": 1}}), type="Rerank", maxTokens=40),
        entry(folder_of(root, "short", "token", {}), type="Embedding", maxTokens=6, tooLong="Truncate", pooling="Cls"),
        entry(folder_of(root, "unpooled", "token", {}), type="Embedding", maxTokens=40),
        emulated_model("tensors", fixed_ms=1),
    ]  # fmt: skip
    with serving(root, manifest("texts", models)) as served:
        yield served
