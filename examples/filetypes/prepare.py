"""Prepare the text classification example: the network of PyPI's magika, and texts that it has not been told of.

    python -m examples.filetypes.prepare FOLDER

Writes FOLDER/magika.onnx, FOLDER/labels.json, and FOLDER/texts.jsonl: the text files of this repository, each with the
kind that its name says.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KINDS = {".py": "python", ".md": "markdown", ".yaml": "yaml", ".toml": "toml", ".lua": "lua", ".proto": "proto"}
FOLDERS = ("docs", "worker", "operator", "crds", "e2e", "tests/runner", "examples")


def main() -> None:
    """Write all of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    model = package() / "models" / "standard_v3_3"
    shutil.copyfile(model / "model.onnx", folder / "magika.onnx")
    labels = json.loads((model / "config.min.json").read_text())["target_labels_space"]
    (folder / "labels.json").write_text(json.dumps(labels))
    lines = [json.dumps(item) for item in texts()]
    (folder / "texts.jsonl").write_text("\n".join(lines) + "\n")
    print(f"{folder}: magika.onnx, {len(labels)} labels, {len(lines)} texts")


def package() -> Path:
    """Where magika is: installed, or in an environment of its own in the cache of this repository's tests."""
    spec = importlib.util.find_spec("magika")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent
    from e2e.peers import peer_python

    [found] = peer_python("magika").parents[1].glob("lib/python*/site-packages/magika")
    return found


def texts() -> Iterator[dict[str, str]]:
    """Files of some size; of a few hundred of each kind the first 40."""
    counts: dict[str, int] = {}
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*")):
        kind = KINDS.get(path.suffix)
        if kind is None or path.stat().st_size < 500 or counts.get(kind, 0) == 40:
            continue
        counts[kind] = counts.get(kind, 0) + 1
        yield {"id": path.relative_to(ROOT).as_posix(), "kind": kind, "text": path.read_text(encoding="utf-8")}


if __name__ == "__main__":
    main()
