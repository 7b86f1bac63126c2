"""Texts per second of /v1/embeddings beside a plain loop over the same tokenizer and network (all-MiniLM-L6-v2).

    python -m e2e.bench.texts [--texts 400] [--rounds 3]

Every way takes turns, so that a busy machine is busy for all. The loop is what a script does: one text after the other,
or 32 at a time, each filled up to the longest of its 32.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
_BATCH: Final = 32
Way = Callable[[list[str]], np.ndarray]


@click.command()
@click.option("--texts", "count", type=int, default=400, show_default=True, help="In all; each way takes all of them.")
@click.option("--rounds", type=int, default=3, show_default=True, help="Turns of each way.")
@click.option("--callers", type=int, default=32, show_default=True, help="Requests of one text at once.")
def main(count: int, rounds: int, callers: int) -> None:
    """Measure, and print a table."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _prepare(folder, count)
        texts = [json.loads(line)["text"] for line in (folder / "sentences.jsonl").read_text().splitlines()]
        with _served(folder) as url:
            loop = _Loop(folder)
            ways: dict[str, Way] = {
                "loop, one text at a time": lambda given: loop.vectors(given, 1),
                f"loop, {_BATCH} at a time": lambda given: loop.vectors(given, _BATCH),
                f"{callers} callers, one text each": lambda given: _many(url, given, callers),
                "one caller, all texts in a request": lambda given: _one(url, given),
            }
            _report(_rounds(ways, texts, rounds), len(texts))


def _prepare(folder: Path, count: int) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "examples.embeddings.prepare", str(folder), "--count", str(count)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def _rounds(ways: dict[str, Way], texts: list[str], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way. The answers are compared on the way."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    wanted = next(iter(ways.values()))(texts)
    for way in ways.values():
        way(texts[:64])  # sizes are found, sessions opened
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            found = way(texts)
            seconds[name].append(time.perf_counter() - began)
            cosine = float((found * wanted).sum(1).min())
            if cosine < 0.999:
                raise click.ClickException(f"{name}: another answer, cosine {cosine:.4f}")
    return seconds


def _report(seconds: dict[str, list[float]], count: int) -> None:
    click.echo("| way | texts/s, best round | all rounds |\n|---|---|---|")
    for name, took in seconds.items():
        rates = [count / each for each in took]
        click.echo(f"| {name} | {max(rates):.1f} | {', '.join(f'{rate:.1f}' for rate in rates)} |")


class _Loop:
    """A script's own way, on one thread as the runtime has."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        self._session = onnxruntime.InferenceSession(str(folder / "minilm.onnx"), options)
        library: Any = importlib.import_module("tokenizers")
        self._tokenizer = library.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_padding()
        self._tokenizer.enable_truncation(256)

    def vectors(self, texts: list[str], batch: int) -> np.ndarray:
        return np.concatenate([self._of(texts[first : first + batch]) for first in range(0, len(texts), batch)])

    def _of(self, texts: list[str]) -> np.ndarray:
        encodings = self._tokenizer.encode_batch(texts)
        inputs = {
            "input_ids": np.array([each.ids for each in encodings]),
            "attention_mask": np.array([each.attention_mask for each in encodings]),
        }
        return np.asarray(self._session.run(None, inputs)[0])


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    (document,) = yaml.safe_load_all((ROOT / "examples/embeddings/deployment.yaml").read_text())
    (folder / "deployment.yaml").write_text(yaml.safe_dump(document))
    command = [sys.executable, "-m", "batchwright_worker", "serve", "-f", str(folder / "deployment.yaml")]
    ports = ["--volume", f"data={folder}", "--http", "0", "--grpc", "0"]
    with subprocess.Popen([*command, *ports], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            found = re.search(r"http://[\d.]+:\d+", next(lines))
            assert found is not None
            assert any(line.startswith("ready") for line in lines)
            yield found[0]
        finally:
            process.terminate()


def _many(url: str, texts: list[str], callers: int) -> np.ndarray:
    with ThreadPoolExecutor(callers) as pool:
        return np.concatenate(list(pool.map(lambda text: _one(url, [text]), texts)))


def _one(url: str, texts: list[str]) -> np.ndarray:
    import base64

    body = json.dumps({"model": "minilm", "input": texts, "encoding_format": "base64"}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/embeddings", data=body), timeout=300) as answer:
        data = json.load(answer)["data"]
    return np.array([np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in data])


if __name__ == "__main__":
    main()
