"""How well the pages were read: character accuracy of a job's output against the text that was rendered.

    python evaluate.py --results DIR --truth truth.jsonl [--seconds S]

Accuracy = 1 - (sum of edit distances) / (sum of true lengths) over all pages, a page being its lines joined by line
feeds; a page without a result counts as empty. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    """Print the numbers; exit status 1 if the output is not whole."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="the job's output")
    parser.add_argument("--truth", type=Path, required=True, help="known text, one page a line")
    parser.add_argument("--seconds", type=float, default=None, help="how long the job took, for pages per second")
    args = parser.parse_args()
    try:
        pages = read_results(args.results)
    except ValueError as error:
        sys.exit(f"{args.results}: {error}")
    truth = {record["id"]: record["lines"] for record in records(args.truth)}
    print(json.dumps(evaluation(pages, truth, args.seconds)))


def read_results(folder: Path) -> dict[str, list[str]]:
    """Lines by page, of the parts that the manifest names. Raises ValueError if there is none or a part differs."""
    manifest_path = folder / "_manifest.json"
    if not manifest_path.exists():
        raise ValueError("no _manifest.json: the job is not complete")
    pages: dict[str, list[str]] = {}
    for part in json.loads(manifest_path.read_text())["parts"]:
        path = folder / part["name"]
        if hashlib.sha256(path.read_bytes()).hexdigest() != part["digest"]:
            raise ValueError(f"{part['name']} is not the part that the manifest names")
        for record in records(path):
            pages[record["id"]] = record["text"]["lines"] if "text" in record else []
    return pages


def records(path: Path) -> Iterable[dict[str, Any]]:
    """Records of a file of JSON lines."""
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def evaluation(
    pages: Mapping[str, list[str]], truth: Mapping[str, list[str]], seconds: float | None = None
) -> dict[str, Any]:
    """{"pages", "characterAccuracy", "characters", "worstPage", and with seconds "pagesPerSecond"}."""
    wanted = {page: "\n".join(lines) for page, lines in truth.items()}
    distances = {page: edit_distance("\n".join(pages.get(page, [])), text) for page, text in wanted.items()}
    characters = sum(map(len, wanted.values()))
    result: dict[str, Any] = {
        "pages": len(pages),
        "characterAccuracy": round(1.0 - sum(distances.values()) / characters, 5),
        "characters": characters,
        "worstPage": max(distances, key=lambda page: distances[page]),
    }
    if seconds is not None:
        result["pagesPerSecond"] = round(len(pages) / seconds, 3)
    return result


def edit_distance(first: str, second: str) -> int:
    """Levenshtein distance, one vector operation per character of `first`."""
    target = np.frombuffer(second.encode("utf-32-le"), np.uint32)
    steps = np.arange(len(target) + 1)
    row = steps.copy()
    for index, character in enumerate(np.frombuffer(first.encode("utf-32-le"), np.uint32), start=1):
        changed = np.empty_like(row)
        changed[0] = index
        changed[1:] = np.minimum(row[1:] + 1, row[:-1] + (target != character))
        row = np.minimum.accumulate(changed - steps) + steps  # an insertion costs 1 per step to the right
    return int(row[-1])


if __name__ == "__main__":
    main()
