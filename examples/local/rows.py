"""The job's function: a record's numbers as the model's row."""

from __future__ import annotations

from typing import Any

import numpy as np

from batchwright_worker.runner.cpu.functions import produces


@produces(x=("FP32", (3,)))
def row(inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """`numbers` of the record."""
    return {"x": np.asarray(inputs["item"]["data"]["numbers"], np.float32)}
