"""Texts in front of a server of the user's: the sidecar has the tokenizer, the server the network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from tests.language.text_models import SENTENCE_FILES, entry, folder_of, vector
from tests.protocol.serving import manifest, serving

pytestmark = pytest.mark.slow
TEXTS = ["cat", "the cat sat on a mat and then ran far away", "dog"]


def test_its_network_and_our_tokenizer(tmp_path: Path, tokenizer: tokenizers.Tokenizer) -> None:
    model = entry(folder_of(tmp_path, "words", "token", SENTENCE_FILES), type="Embedding")
    (tmp_path / "theirs").mkdir()
    theirs = {name: value for name, value in model.items() if name != "task"}
    runtime = {"accelerator": "cpu", "protocol": "open-inference", "image": "example.org/server:1", "port": 9000}
    with serving(tmp_path / "theirs", manifest("theirs", [theirs])) as server:
        ours = manifest("ours", [model], runtimes=[runtime])
        with serving(tmp_path, ours, "--runtime-url", server.url) as served:
            body = json.dumps({"model": "words", "input": TEXTS}).encode()
            status, _, content = served.get("/v1/embeddings", body)
            assert status == 200, content
    found = [each["embedding"] for each in json.loads(content)["data"]]
    wanted = [vector(tokenizer.encode(text).ids, per_token=True) for text in TEXTS]
    np.testing.assert_allclose(found, wanted, atol=2e-6)
