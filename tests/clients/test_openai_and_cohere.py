"""The Python clients of OpenAI and Cohere, unmodified, in an environment of their own, and all-MiniLM-L6-v2."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from e2e.peers import peer_python
from tests.protocol.serving import started, wait_ready

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("openai_calls.py")
LONG = "It was a long and winding road that nobody had ever taken to its end, or so they said. " * 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the example prepares: the network, its tokenizer, sentences."""
    folder = tmp_path_factory.mktemp("minilm")
    command = [sys.executable, "-W", "ignore", "-m", "examples.embeddings.prepare", str(folder), "--count", "24"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def texts(folder: Path) -> list[str]:
    lines = (folder / "sentences.jsonl").read_text().splitlines()
    return [*(json.loads(line)["text"] for line in lines), "Yes.", LONG]


@pytest.fixture(scope="module")
def told(folder: Path, texts: list[str]) -> Iterator[dict[str, Any]]:
    """What the clients got."""
    (document,) = yaml.safe_load_all((ROOT / "examples/embeddings/deployment.yaml").read_text())
    (folder / "deployment.yaml").write_text(yaml.safe_dump(document))
    (folder / "texts.json").write_text(json.dumps(texts))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with started(folder / "deployment.yaml", "--volume", f"data={folder}") as served:
        wait_ready(served)
        command = [str(peer_python("openai")), str(SCRIPT), served.url, str(folder / "texts.json")]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
        assert ended.returncode == 0, ended.stderr
        yield json.loads(ended.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def wanted(folder: Path, texts: list[str]) -> np.ndarray:
    """Of each text alone, not filled up, by torch and the published weights."""
    import torch
    from safetensors.torch import load_file

    from e2e.bench.networks import minilm
    from examples.embeddings.prepare import package

    network: Any = minilm.Model()
    network.load_state_dict(minilm.weights(load_file(package() / "model" / "model.safetensors"), network))
    tokenizer = importlib.import_module("tokenizers").Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    found = []
    with torch.no_grad():
        for text in texts:
            ids = torch.tensor([tokenizer.encode(text).ids])
            found.append(network.eval()(ids, torch.ones_like(ids))[0].numpy())
    return np.stack(found)


def test_they_are_the_locked_versions(told: dict[str, Any]) -> None:
    assert told["versions"] == ["3.57.0", "7.3.1"]


@pytest.mark.parametrize("how", ["whole", "alone", "floats"])
def test_vectors_are_the_networks_own(told: dict[str, Any], wanted: np.ndarray, how: str) -> None:
    found = np.array(told["openai"][how])
    cosines = (found * wanted[: len(found)]).sum(1) / np.linalg.norm(found, axis=1)
    assert cosines.min() >= 0.99999
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_a_text_among_others_has_the_vector_that_it_has_alone(told: dict[str, Any]) -> None:
    np.testing.assert_allclose(told["openai"]["whole"], told["openai"]["alone"], atol=1e-5)


def test_counts_and_models(told: dict[str, Any], folder: Path, texts: list[str]) -> None:
    tokenizer = importlib.import_module("tokenizers").Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokens = sum(len(tokenizer.encode(text).ids) for text in texts)
    assert told["openai"]["usage"] == [tokens, tokens]
    assert (told["openai"]["models"], told["openai"]["model"]) == (["minilm"], "minilm")


def test_errors_are_the_clients_own_exceptions(told: dict[str, Any]) -> None:
    errors = told["openai"]["errors"]
    assert errors["unknown"][:4] == ["NotFoundError", 404, "model_not_found", "model"]
    assert errors["dimensions"][:2] + errors["dimensions"][3:4] == ["BadRequestError", 400, "dimensions"]
    assert errors["long"][:4] == ["BadRequestError", 400, "context_length_exceeded", "input"]
    assert "at most 256" in errors["long"][4]


def test_cohere_ranks_by_cosine(told: dict[str, Any], wanted: np.ndarray, texts: list[str]) -> None:
    cosines = wanted[1:] @ wanted[0]
    best = np.argsort(-cosines)[:3]
    for version in ("newer", "older"):
        assert [each[0] for each in told["cohere"][version]] == best.tolist()
        np.testing.assert_allclose([each[1] for each in told["cohere"][version]], cosines[best], atol=1e-5)
    assert best[0] == 0, "the sentence that says the same"
    assert told["cohere"]["documents"] == [texts[1 + number] for number in best]
    assert "none of them empty" in told["cohere"]["error"]
