"""`batchwright-worker serve` as a real process, and the models that the protocol tests serve with it."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from onnx import TensorProto, helper, numpy_helper, save

WEIGHTS = np.random.default_rng(7).normal(size=(16, 4)).astype(np.float32)
DATATYPES = ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")
DATATYPES += ("FP16", "FP32", "FP64", "BF16", "BYTES")

SCRIPT = '''
import os, signal, time
from pathlib import Path
import numpy as np

class Model:
    """y = x; 13 in x kills the process once, 14 fails the batch, rows that hold 15 are bad. Waits
    while there is a file of its own name and `.wait`."""

    def __init__(self, path):
        self.marker = Path(path) if path else None

    def infer(self, inputs):
        from batchwright_worker.backends.base import BadRowsError
        x = inputs["x"]
        while self.marker is not None and self.marker.with_suffix(".wait").exists():
            time.sleep(0.002)
        if x.dtype == np.float32:
            if (x == 13).any() and self.marker is not None and not self.marker.with_suffix(".killed").exists():
                self.marker.with_suffix(".killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if (x == 14).any():
                raise RuntimeError("fourteen is not liked")
            bad = np.flatnonzero((x == 15).reshape(len(x), -1).any(axis=1))
            if bad.size:
                raise BadRowsError({int(row): "it holds fifteen" for row in bad})
        return {"y": x}
'''


def linear_onnx(path: Path) -> Path:
    """y = x @ WEIGHTS, x [n, 16], y [n, 4]."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def echo_model(name: str, datatype: str, shape: list[int], path: Path) -> dict[str, Any]:
    """A python model of SCRIPT."""
    return {
        "name": name,
        "inputs": [{"name": "x", "datatype": datatype, "shape": shape}],
        "outputs": [{"name": "y", "datatype": datatype, "shape": shape}],
        "artifacts": [
            {
                "format": "python",
                "uri": path.as_uri(),
                "script": {"configMapKeyRef": {"name": "scripts", "key": "echo.py"}},
            }
        ],
    }


def known_models(folder: Path, datatypes: Iterable[str]) -> list[dict[str, Any]]:
    """`linear` (onnx) and one echo per datatype (x and y, [-1]), with their files in the folder."""
    marker = folder / "marker"
    marker.touch()
    return [
        {"name": "linear", "artifacts": [{"format": "onnx", "uri": linear_onnx(folder / "linear.onnx").as_uri()}]},
        *(echo_model(f"echo-{datatype.lower()}", datatype, [-1], marker) for datatype in datatypes),
    ]


def held_model(folder: Path, name: str = "held", **batching: Any) -> dict[str, Any]:
    """For the context manager `held`: an echo of x FP32 [8], with its file in the folder."""
    marker = folder / name
    marker.touch()
    return echo_model(name, "FP32", [8], marker) | {"batching": batching}


@contextlib.contextmanager
def held(served: Served, name: str = "held") -> Iterator[None]:
    """What the model is asked within the block waits for the block's end: nothing depends on how long a batch takes."""
    assert served.folder is not None
    gate = served.folder / f"{name}.wait"
    gate.touch()
    try:
        yield
    finally:
        gate.unlink()


def emulated_model(name: str, fixed_ms: float, per_row_ms: float = 0.0, **batching: Any) -> dict[str, Any]:
    """An emulated model on cpu: input x FP32 [8], output argmax."""
    emulated = {"fixedMicroseconds": int(fixed_ms * 1000), "perRowMicroseconds": int(per_row_ms * 1000)}
    return {
        "name": name,
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [8]}],
        "artifacts": [{"format": "emulated", "emulated": emulated}],
        "batching": batching,
    }


def manifest(name: str, models: list[dict[str, Any]], **spec: Any) -> list[dict[str, Any]]:
    """The ModelDeployment and the ConfigMap of its scripts."""
    return [
        {
            "apiVersion": "batchwright.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": name},
            "spec": {"models": models, **spec},
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "scripts"}, "data": {"echo.py": SCRIPT}},
    ]


@dataclass
class Served:
    """A running `serve`."""

    process: subprocess.Popen[str]
    http: int
    grpc: int
    control: int
    token: str
    folder: Path | None = None
    """Of its deployment and its models."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}"

    def get(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (lower case) and body of a GET (or POST, where there is a body)."""
        request = urllib.request.Request(self.url + path, data=body, headers=headers)
        return fetched(request)

    def state(self, **query: Any) -> Any:
        """GET /v1/state on the control port."""
        text = "&".join(f"{key}={value}" for key, value in query.items())
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.control}/v1/state?{text}", headers={"Authorization": f"Bearer {self.token}"}
        )
        return json.loads(fetched(request)[2])

    def stop(self, number: int = signal.SIGTERM) -> float:
        """Seconds until it has ended."""
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(60)
        return time.monotonic() - began


def infer_linear(served: Served, rows: np.ndarray) -> np.ndarray:
    """`linear`'s answer to rows of FP32 [16], binary both ways over HTTP."""
    tensor = {"name": "x", "datatype": "FP32", "shape": list(rows.shape)}
    tensor["parameters"] = {"binary_data_size": rows.nbytes}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    length = {"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"}
    status, headers, answer = served.get("/v2/models/linear/infer", header + rows.tobytes(), **length)
    assert status == 200, answer
    return np.frombuffer(answer[int(headers["inference-header-content-length"]) :], np.float32).reshape(len(rows), -1)


def fetched(request: urllib.request.Request) -> tuple[int, dict[str, str], bytes]:
    """Any status is an answer."""
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, {k.lower(): v for k, v in response.headers.items()}, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()


@contextlib.contextmanager
def serving(folder: Path, documents: list[dict[str, Any]], *options: str) -> Iterator[Served]:
    """A ready `serve` on free ports; ended on leaving."""
    path = folder / "deployment.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    with started(path, *options) as served:
        served.folder = folder
        wait_ready(served)
        yield served


@contextlib.contextmanager
def started(path: Path, *options: str) -> Iterator[Served]:
    """`serve` that listens but may not be ready yet."""
    with listening("-f", str(path), *options) as served:
        yield served


@contextlib.contextmanager
def listening(*options: str) -> Iterator[Served]:
    """The same with all of its options but the ports."""
    command = [sys.executable, "-m", "batchwright_worker", "serve", "--http", "0", "--grpc", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield _listening(process)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(60)


def wait_ready(served: Served) -> None:
    """Follows the state until it is ready."""
    revision, end = -1, time.monotonic() + 200
    while time.monotonic() < end:
        state = served.state(after=revision, waitSeconds=20)
        if state["ready"]:
            return
        revision = state["revision"]
    raise AssertionError(f"never ready: {state}")


_LISTENS = re.compile(r"https?://127.0.0.1:(\d+), gRPC 127.0.0.1:(\d+), control 127.0.0.1:(\d+) \(token (\w+)\)")


def _listening(process: subprocess.Popen[str]) -> Served:
    assert process.stdout is not None
    said = ""
    while (line := process.stdout.readline()) and (found := _LISTENS.search(line)) is None:
        said += line
    assert line, f"serve said {said!r}"
    assert found is not None
    return Served(process, int(found[1]), int(found[2]), int(found[3]), found[4])
