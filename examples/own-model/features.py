"""The job's function: a record as the model's row. Values of csv are texts."""

from __future__ import annotations

from typing import Any

import numpy as np

from batchwright_worker.runner.cpu.functions import produces

COLUMNS = ("age", "visits", "rating", "member")


@produces(features=("FP32", (4,)))
def row(inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """The four numbers of a person, years as decades."""
    person = inputs["item"]["data"]
    numbers = np.asarray([float(person[column]) for column in COLUMNS], np.float32)
    return {"features": numbers / np.float32([10, 1, 1, 1])}
