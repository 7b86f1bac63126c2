"""atheris, coverage-guided, on everything that reads what callers send: no crash but the typed errors."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from e2e.peers import peer_python

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("fuzz_decoders.py")
WORKER = Path(__file__).parents[2] / "worker"
WORDS = (
    *(
        "inputs",
        "outputs",
        "parameters",
        "name",
        "datatype",
        "shape",
        "data",
        "id",
        "timeout",
        "priority",
        "true",
        "null",
    ),
    *("binary_data_size", "binary_data_output", "binary_data", "FP32", "INT64", "BYTES", "FP16", "BOOL", "UINT8"),
    *("Content-Length: ", "Transfer-Encoding: chunked", "HTTP/1.1", "Expect: 100-continue", "Connection: close"),
)
TARGETS = ("infer", "head", "chunks", "connection")


def fuzz(folder: Path, target: str, *options: str) -> str:
    """What libFuzzer says; a crash is its failure, with the input that did it."""
    corpus = folder / "corpus"
    corpus.mkdir()
    python = peer_python("fuzz")
    environment = {**os.environ, "PYTHONPATH": str(WORKER)}
    command = [str(python), str(SCRIPT), target, "-seed=7", "-max_len=1024", f"-artifact_prefix={folder}/", *options]
    words = "".join(f'"{word}"\n' for word in WORDS)
    (folder / "words").write_text(words + '"\\x0d\\x0a\\x0d\\x0a"\n')
    command.append(f"-dict={folder / 'words'}")
    for number, seed in enumerate(seeds(python, environment)[target]):
        (corpus / f"seed-{number}").write_bytes(seed)
    ended = subprocess.run(
        [*command, str(corpus)], env=environment, capture_output=True, text=True, timeout=3000, check=False
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]
    return ended.stderr


def seeds(python: Path, environment: dict[str, str]) -> dict[str, tuple[bytes, ...]]:
    script = f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import fuzz_decoders; print(fuzz_decoders.SEEDS)"
    told = subprocess.run([str(python), "-c", script], env=environment, capture_output=True, text=True, check=True)
    found: dict[str, tuple[bytes, ...]] = eval(told.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_no_bytes_crash_a_reader(tmp_path: Path, target: str) -> None:
    runs = 5_000 if target == "connection" else 20_000
    assert f"Done {runs} runs" in fuzz(tmp_path, target, f"-runs={runs}")


@pytest.mark.soak
@pytest.mark.parametrize("target", TARGETS)
def test_no_bytes_crash_a_reader_for_minutes(tmp_path: Path, target: str) -> None:
    assert "Done " in fuzz(tmp_path, target, "-max_total_time=180")
