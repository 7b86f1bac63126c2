"""A model whose rows say what shall become of them, and its reference: what a right answer is.

Every batch is written down in a journal before and after it ran, so that a test can tell what ran, how often and where.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

Row = tuple[float, float, float, float]


class Fate(IntEnum):
    """Second element of a row."""

    GOOD = 0
    BAD = 1
    """The model names the row."""
    RAISES = 2
    """The model raises without saying which row it was."""
    KILLS = 3
    """The model's process ends at once."""
    GREEDY = 4
    """Does not fit into memory in a batch of more than four."""


SCRIPT = """
import json, os, time
import numpy as np
from batchwright_worker.backends.base import BadRowsError

class Model:
    def __init__(self, path):
        figures = json.load(open(path))
        self.fixed, self.per_row = figures["fixed_ms"] / 1e3, figures["per_row_ms"] / 1e3
        if figures["kills_on_load"]:
            os._exit(3)
        self.ballast = np.ones(figures["ballast_bytes"], np.uint8)
        self.journal = os.open(path + ".journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def close(self):
        os.close(self.journal)

    def note(self, what, numbers):
        line = json.dumps([what, os.getpid(), [int(number) for number in numbers]])
        os.write(self.journal, line.encode() + b"\\n")

    def infer(self, inputs):
        x = inputs["x"]
        numbers, fates, a, b = x.T
        asked = (a == numbers % 251) & (b == numbers % 89)
        fates = np.where(asked, fates, 0)  # what the model is tried with when it is loaded has no fate, and number 0
        self.note("begin", np.where(asked, numbers, 0))
        time.sleep(self.fixed + self.per_row * len(x))
        if (fates == 3).any():
            os._exit(3)
        if (fates == 4).any() and len(x) > 4:
            raise MemoryError(f"no room for {len(x)} rows")
        if (fates == 2).any():
            raise ValueError(f"cannot do {[int(number) for number in numbers[fates == 2]]}")
        if (fates == 1).any():
            raise BadRowsError({int(row): f"row {int(numbers[row])} is bad" for row in np.flatnonzero(fates == 1)})
        self.note("end", np.where(asked, numbers, 0))
        return {"y": np.stack([numbers, a + b, a * b, b - a], axis=1).astype(np.float32)}
"""


def reference(row: Row) -> list[float]:
    """What a good row's answer is."""
    number, _, a, b = row
    return [number, a + b, a * b, b - a]


def row_of(number: int, fate: Fate = Fate.GOOD) -> Row:
    """Small whole numbers, so that float32 is exact."""
    return (float(number), float(fate), float(number % 251), float(number % 89))


def fated_model(folder: Path, name: str, **options: Any) -> dict[str, Any]:
    """The model of a ModelDeployment; options: fixed_ms, per_row_ms, ballast_bytes, kills_on_load, and batching's."""
    figures = {"fixed_ms": 2.0, "per_row_ms": 0.1, "ballast_bytes": 0, "kills_on_load": False}
    figures |= {key: options.pop(key) for key in list(options) if key in figures}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(figures))
    targets = options.pop("targets", {})
    return {
        "name": name,
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [4]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [4]}],
        "artifacts": [
            {
                "format": "python",
                "uri": path.as_uri(),
                "script": {"configMapKeyRef": {"name": "fates", "key": "fates.py"}},
            }
        ],
        "targets": targets,
        "batching": options,
    }


def manifest(name: str, models: Sequence[Mapping[str, Any]], **spec: Any) -> list[dict[str, Any]]:
    """The ModelDeployment and the ConfigMap of its script."""
    return [
        {
            "apiVersion": "batchwright.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": name},
            "spec": {"models": models, **spec},
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "fates"}, "data": {"fates.py": SCRIPT}},
    ]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal: a batch began or ended in the process `pid`."""

    what: str
    pid: int
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Journal:
    """What one model ran; rows of warm-ups and trials have the number 0 and are left out."""

    path: Path

    def entries(self) -> list[Entry]:
        """In the order in which they were written."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        entries = [Entry(what, pid, tuple(numbers)) for what, pid, numbers in map(json.loads, lines)]
        return [entry for entry in entries if any(entry.numbers)]

    def begun(self) -> Counter[int]:
        """How often each row was begun."""
        return Counter(number for entry in self.entries() if entry.what == "begin" for number in entry.numbers)

    def last(self, pid: int, batches: int) -> set[int]:
        """Rows of the last batches that this process began: their answers may have died with it."""
        begun = [entry.numbers for entry in self.entries() if entry.pid == pid and entry.what == "begin"]
        return {number for numbers in begun[-batches:] for number in numbers}

    def cut_off(self, pid: int) -> set[int]:
        """Rows that this process had begun and not ended."""
        mine = [entry for entry in self.entries() if entry.pid == pid]
        begun = Counter(number for entry in mine if entry.what == "begin" for number in entry.numbers)
        ended = Counter(number for entry in mine if entry.what == "end" for number in entry.numbers)
        return set(begun - ended)


def journal(folder: Path, model: str) -> Journal:
    """Of a model of `fated_model`."""
    return Journal(folder / f"{model}.json.journal")
