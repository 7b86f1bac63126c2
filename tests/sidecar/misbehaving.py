"""A model whose rows choose by their first number what goes wrong, and how it is served beside a good one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from tests.protocol.serving import Served, manifest

SURROGATE, EXIT, KILL, SEGFAULT, HANG, INTERRUPT, LONG, UNPRINTABLE, ROW, SPIN = range(1, 11)

SCRIPT = '''
import ctypes, os, signal, sys, time
from pathlib import Path
import numpy as np


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class Model:
    """y = x, unless a row begins with the number of a fault."""

    def __init__(self, path):
        self.folder = Path(path).parent if path else None
        if self.folder is not None and (self.folder / "hang-in-load").exists():
            time.sleep(3600)

    def infer(self, inputs):
        x = inputs["x"]
        for at, row in enumerate(x):
            code = int(row[0])
            if code == 1: raise ValueError("bad \\udce9 text \\x00")
            if code == 2: sys.exit(3)
            if code == 3: os._exit(4)
            if code == 4: ctypes.string_at(0)
            if code == 5: time.sleep(3600)
            if code == 6: raise KeyboardInterrupt
            if code == 7: raise ValueError("E" * 3_000_000)
            if code == 8: raise Unprintable
            if code == 9:
                from batchwright_worker.backends.base import BadRowsError
                raise BadRowsError({at: "\\udce9" + "R" * 100_000})
            if code == 10: ctypes.PyDLL(None).sleep(3600)  # keeps the interpreter's lock
        return {"y": x}

    def close(self):
        if self.folder is not None and (self.folder / "hang-in-close").exists():
            time.sleep(3600)
'''


def odd_model(name: str, marker: str = "", **fields: Any) -> dict[str, Any]:
    """A python model of SCRIPT, x and y FP32 [2]; `marker`: a file in whose folder its faults of load and close lie."""
    artifact: dict[str, Any] = {
        "format": "python",
        "script": {"configMapKeyRef": {"name": "scripts", "key": "odd.py"}},
    }
    tensors = [{"name": tensor, "datatype": "FP32", "shape": [2]} for tensor in "xy"]
    return {
        "name": name,
        "inputs": tensors[:1],
        "outputs": tensors[1:],
        "artifacts": [artifact | ({"uri": marker} if marker else {})],
        **fields,
    }


def odd_manifest(name: str, models: list[dict[str, Any]], **spec: Any) -> list[dict[str, Any]]:
    """The ModelDeployment and the ConfigMap of the script."""
    deployment, scripts = manifest(name, models, **spec)
    scripts["data"] = {**scripts["data"], "odd.py": SCRIPT}
    return [deployment, scripts]


def ask(served: Served, model: str, *codes: float, **parameters: Any) -> tuple[int, Any]:
    """Status and answer of one request with a row for each code."""
    rows = [[code, 1.0] for code in codes]
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [len(rows), 2], "data": rows}]}
    if parameters:
        body["parameters"] = parameters
    status, _, answer = served.get(f"/v2/models/{model}/infer", json.dumps(body).encode())
    return status, json.loads(answer)


def answer_of(answer: Any) -> np.ndarray[Any, Any]:
    """The rows of a good answer."""
    output = answer["outputs"][0]
    return np.array(output["data"]).reshape(output["shape"])
