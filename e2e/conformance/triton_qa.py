"""Triton's own qa scripts of its server repository, those that need a server and no file of one, against models with
the names, tensors and answers that they expect.

The scripts come from a checkout; nothing of them is kept here. They ask 127.0.0.1:8000 and :8001, so that these ports
have to be free.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

RUN_S: Final = 90
READY_S: Final = 120.0
SCRIPTS: Final = {
    "L0_http/python_http_aio_test.py": {},
    "L0_grpc/python_grpc_aio_test.py": {},
    "L0_grpc/python_unit_test.py": {},
    "L0_string_io/string_client_test.py": {},
    "L0_http/http_test.py": {},
    "L0_client_timeout/client_infer_timeout_test.py": {},
    "L0_request_cancellation/grpc_cancellation_test.py": {},
    "L0_parameters/class_count_test.py": {"CLIENT_TYPE": "http"},
}
TOO_LARGE: Final = "large_invalid"
"""Of http_test: it sends 2 GiB."""
_MODELS: Final = """
import time

import numpy as np


class AddSub:
    def __init__(self, path): ...

    def infer(self, inputs):
        a, b = inputs["INPUT0"], inputs["INPUT1"]
        if a.dtype.kind == "O":
            number = np.vectorize(lambda text: int(text or 0), otypes=[np.int64])
            text = np.vectorize(lambda value: str(value).encode(), otypes=[object])
            return {"OUTPUT0": text(number(a) + number(b)), "OUTPUT1": text(number(a) - number(b))}
        return {"OUTPUT0": (a + b).astype(a.dtype), "OUTPUT1": (a - b).astype(a.dtype)}


class Identity:
    delay = 0.0

    def __init__(self, path): ...

    def infer(self, inputs):
        time.sleep(self.delay)
        return {name.replace("INPUT", "OUTPUT"): array for name, array in inputs.items()}


class Slow(Identity):
    delay = 3.0
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One script: how many of its tests ran, and the names of those that do not pass."""

    script: str
    ran: int
    failed: tuple[str, ...]


def outcomes_of(qa: Path, python: Path, folder: Path) -> Iterator[Outcome]:
    """Every script of `qa` in order. `python` has tritonclient and requests; `folder` is written to."""
    (folder / "deployment.yaml").write_text(yaml.safe_dump_all(documents()))
    with _served(folder):
        for script, environ in SCRIPTS.items():
            yield _outcome(qa, python, script, environ, folder)


def documents() -> list[dict[str, Any]]:
    """The ModelDeployment of all models, and their scripts."""
    scripts = {f"{name}.py": f"{_MODELS}\n\nModel = {name}\n" for name in ("AddSub", "Identity", "Slow")}
    return [
        {"apiVersion": "batchwright.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "simple"},
         "spec": {"repositoryControl": True, "models": list(_models())}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "scripts"}, "data": scripts},
    ]  # fmt: skip


def _models() -> Iterator[dict[str, Any]]:
    pairs = {"simple": "INT32", "simple_int8": "INT8", "simple_string": "BYTES", "onnx_int32_int32_int32": "INT32",
             "onnx_float32_float32_float32": "FP32", "onnx_int32_int8_int8": "INT32"}  # fmt: skip
    for name, datatype in pairs.items():
        yield _model(name, "AddSub", datatype, [16], 2)
    same: dict[str, tuple[str, list[int]]] = {
        "simple_identity": ("BYTES", [-1]), "string_identity": ("BYTES", []), "identity_bytes": ("BYTES", [-1]),
        "onnx_zero_1_object_1_element": ("BYTES", [1]), "onnx_zero_1_float16": ("FP16", [-1, -1]),
        "identity_fp32": ("FP32", [-1]), "onnx_zero_1_float32": ("FP32", [-1]), "onnx_zero_1_object": ("BYTES", [-1]),
        "plan_zero_1_float32": ("FP32", [-1]), "onnx_nobatch_zero_1_float32": ("FP32", [-1]),
    }  # fmt: skip
    for name, (datatype, shape) in same.items():
        yield _model(name, "Identity", datatype, shape, 1)
    yield _model("onnx_zero_3_float32", "Identity", "FP32", [-1], 3)
    yield _model("custom_identity_int32", "Slow", "INT32", [-1], 1)
    yield _model("onnx_zero_1_float32_queue", "Slow", "FP32", [-1], 1, maxSize=1, maxQueueLength=1)


def _model(name: str, script: str, datatype: str, shape: list[int], count: int, **batching: int) -> dict[str, Any]:
    def tensors(kind: str) -> list[dict[str, Any]]:
        return [{"name": f"{kind}{number}", "datatype": datatype, "shape": shape} for number in range(count)]

    reference = {"name": "scripts", "key": f"{script}.py"}
    return {
        "name": name, "inputs": tensors("INPUT"), "outputs": tensors("OUTPUT"), "batching": {"maxSize": 8, **batching},
        "artifacts": [{"format": "python", "script": {"configMapKeyRef": reference}}],
    }  # fmt: skip


def _outcome(qa: Path, python: Path, script: str, environ: dict[str, str], folder: Path) -> Outcome:
    path = qa / script
    module = path.stem
    names = [module]
    if module == "http_test":
        tests = [name for name in re.findall(r"def (test\w*)", path.read_text()) if TOO_LARGE not in name]
        names = [f"{module}.HttpTest.{name}" for name in tests]
    paths = os.pathsep.join(map(str, (path.parent, qa / "common")))
    command = [str(python), "-m", "unittest", "-v", *names]
    with (folder / f"{module}.log").open("w+") as log:
        with contextlib.suppress(subprocess.TimeoutExpired):  # a client's thread may outlive the tests
            subprocess.run(
                command, cwd=folder, env={**os.environ, **environ, "PYTHONPATH": paths}, stdout=log,
                stderr=subprocess.STDOUT, timeout=RUN_S, check=False,
            )  # fmt: skip
        log.seek(0)
        said = log.read()
    ran = re.search(r"^Ran (\d+) test", said, flags=re.M)
    failed = dict.fromkeys(re.findall(r"^(?:FAIL|ERROR): (\w+)", said, flags=re.M))
    return Outcome(script, int(ran[1]) if ran else 0, tuple(failed) if ran else ("no test ran",))


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "batchwright_worker", "serve", "-f", str(folder / "deployment.yaml")]
    command += ["--shared-memory", "--server-name", "triton"]
    with (folder / "serve.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            end = time.monotonic() + READY_S
            while not _is_ready():
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError((folder / "serve.log").read_text()[-2000:])
                time.sleep(0.2)
            yield
        finally:
            process.terminate()
            process.wait(20)


def _is_ready() -> bool:
    with contextlib.suppress(urllib.error.URLError, ConnectionError):
        urllib.request.urlopen("http://127.0.0.1:8000/v2/health/ready", timeout=5).close()
        return True
    return False
