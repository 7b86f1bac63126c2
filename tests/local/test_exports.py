"""What docs/exports.md has its readers type, and the model's own library beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.embeddings.prepare import package
from tests.house.commands import ROOT, scripts
from tests.protocol.serving import started, wait_ready

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

TEXTS = ["A cat sat on a mat.", "Stock prices fell.", "The orchard near the village is very old, " * 8]
OWN = """
import json, sys
sys.argv[1:], (model, texts) = [], sys.argv[1:]
from examples.exports.texts import _find_packages
_find_packages()
from sentence_transformers import SentenceTransformer
print(json.dumps(SentenceTransformer(model, device="cpu").encode(json.loads(texts)).tolist()))
"""


def typed(*command: str) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "worker")]),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


PAGE = ROOT / "docs" / "exports.md"


def own_vectors() -> np.ndarray[Any, Any]:
    """Of the model's own library."""
    said = typed(sys.executable, "-c", OWN, str(package() / "model"), json.dumps(TEXTS))
    return np.array(json.loads(said.splitlines()[-1]))


def test_what_the_page_types_answers_as_the_models_own_library(tmp_path: Path) -> None:
    model, export, serve, *_ = [line for block in scripts(PAGE) for line in block.lines]
    typed("bash", "-ec", f"{model}\n{export.replace('build/', f'{tmp_path}/')}")
    program, _, path, *options = serve.replace("build/", f"{tmp_path}/").removeprefix("batchwright-worker ").split()
    assert program == "serve"
    with started(ROOT / path, *options) as served:
        wait_ready(served)
        status, _, body = served.get("/v1/embeddings", json.dumps({"model": "vectors", "input": TEXTS}).encode())
    assert status == 200, body
    found = np.array([each["embedding"] for each in json.loads(body)["data"]])
    assert np.abs(found - own_vectors()).max() < 1e-5


def test_an_export_of_torch_gives_the_same_vectors(tmp_path: Path) -> None:
    import torch
    from tokenizers import Tokenizer

    folder = tmp_path / "vectors"
    command = ["-m", "examples.exports.texts", str(package() / "model"), str(folder), "--format", "torch-export"]
    typed(sys.executable, *command)
    program = torch.export.load(folder / "model.pt2").module()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()  # the file asks for one of 128 tokens
    rows = [torch.tensor([tokenizer.encode(text).ids]) for text in TEXTS]
    found = np.concatenate([program(row, torch.ones_like(row)).detach().numpy() for row in rows])
    assert np.abs(found - own_vectors()).max() < 1e-5
