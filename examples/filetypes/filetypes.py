"""Functions of the job: rows for magika's network, made for many texts at once; and labels, which are loaded once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchwright_worker.runner.cpu.functions import produces

BLOCK, SIDE, PADDING = 4096, 1024, 256


@produces(bytes=("INT32", (2 * SIDE,)))
def rows(inputs: Mapping[str, Any]) -> dict[str, NDArray[np.int32]]:
    """For a batch (`cpu.batch`): 1,024 bytes from the beginning of each text, and 1,024 from its end."""
    texts = inputs["item"]["data"]["text"]
    made = np.full((len(texts), 2 * SIDE), PADDING, np.int32)
    for row, text in zip(made, texts, strict=True):
        raw = text.encode()
        first, last = raw[:BLOCK].lstrip()[:SIDE], raw[-BLOCK:].rstrip()[-SIDE:]
        row[: len(first)] = np.frombuffer(first, np.uint8)
        row[2 * SIDE - len(last) :] = np.frombuffer(last, np.uint8)
    return {"bytes": made}


class Kind:
    """Made once in each process; called for one item at a time: the label of the best class, and its score."""

    def __init__(self, labels: str) -> None:
        self._labels = json.loads(Path(labels).read_text())

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """{kind, score}."""
        scores = inputs["scores"]["target_label"]
        best = int(scores.argmax())
        return {"kind": self._labels[best], "score": float(scores[best])}
