"""What is not known of a model's texts is said at the start, and nothing is served by a guess."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.language.text_models import entry, folder_of
from tests.protocol.serving import manifest


@pytest.mark.parametrize(("missing", "words"), [("tokenizer.json", "put it beside the model"), ("", "task.maxTokens")])
def test_serve_ends_with_a_sentence(tmp_path: Path, missing: str, words: str) -> None:
    folder = folder_of(tmp_path, "words", "token", {})
    if missing:
        (folder / missing).unlink()
    (tmp_path / "d.yaml").write_text(yaml.safe_dump_all(manifest("texts", [entry(folder, type="Embedding")])))
    command = [sys.executable, "-m", "batchwright_worker", "serve", "-f", str(tmp_path / "d.yaml"), "--http", "0"]
    ended = subprocess.run([*command, "--grpc", "0"], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "model words: task: " in ended.stderr
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
