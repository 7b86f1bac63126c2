"""Triton's Python example clients, as they are, against a Triton model repository with the models that they ask for.

The clients come from a checkout of Triton's client repository, which is nobody's package; nothing of it is kept here.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

RUN_S: Final = 90
_READY_S: Final = 120.0
_LISTENS: Final = re.compile(r"http://(127\.0\.0\.1:\d+), gRPC (127\.0\.0\.1:\d+)")
_SIMPLE: Final = ("infer", "async_infer", "aio_infer", "string_infer", "shm", "shm_string", "health_metadata")
_GRPC_ALONE: Final = (
    "keepalive",
    "custom_args",
    "model_control",
    "custom_repeat",
    "sequence_sync_infer",
    "sequence_stream_infer",
    "aio_sequence_stream_infer",
)
_BODIES: Final = {
    "gzip": "--request-compression-algorithm gzip --response-compression-algorithm gzip",
    "deflate": "--request-compression-algorithm deflate --response-compression-algorithm deflate",
    "response gzip": "--response-compression-algorithm gzip",
}
_PICTURE: Final = "-s INCEPTION PICTURE"


@dataclass(frozen=True, slots=True)
class Run:
    """One call of a script; HTTP or GRPC in `arguments` stand for an address, PICTURE for a file."""

    name: str
    script: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """`note`: the last line that it printed, where it failed."""

    run: Run
    passed: bool
    note: str


def runs() -> list[Run]:
    """All of them."""
    http, grpc = "-u HTTP", "-u GRPC"
    found = [Run(f"http {name}", _script("http", name), http) for name in (*_SIMPLE, "model_control")]
    found += [Run(f"http infer, {name}", _script("http", "infer"), f"{http} {more}") for name, more in _BODIES.items()]
    found.append(Run("http sequence", _script("http", "sequence_sync_infer"), http))
    found += [Run(f"grpc {name}", _script("grpc", name), grpc) for name in (*_SIMPLE, *_GRPC_ALONE)]
    found.append(Run("grpc infer, gzip", _script("grpc", "infer"), f"{grpc} -C gzip"))
    kinds = ("int", "int8", "byte")
    found += [Run(f"grpc explicit {kind}", f"grpc_explicit_{kind}_content_client.py", grpc) for kind in kinds]
    found.append(Run("grpc client", "grpc_client.py", grpc))
    for protocol, address in (("http", http), ("grpc", grpc)):
        found += [
            Run(f"{protocol} reused objects", "reuse_infer_objects_client.py", f"-i {protocol} {address}"),
            Run(f"{protocol} picture", "image_client.py", f"-m densenet_onnx -c 1 -i {protocol} {address} {_PICTURE}"),
            Run(
                f"{protocol} pictures",
                "image_client.py",
                f"-m inception_graphdef -c 3 -b 4 -i {protocol} {address} {_PICTURE}",
            ),
        ]
    found.append(Run("grpc picture, stubs", "grpc_image_client.py", f"-m densenet_onnx -c 1 {grpc} {_PICTURE}"))
    return found


def _script(protocol: str, name: str) -> str:
    ends = "" if name in ("health_metadata", "model_control", "custom_repeat") else "_client"
    return f"simple_{protocol}_{name}{ends}.py"


def outcomes_of(examples: Path, python: Path, folder: Path) -> Iterator[Outcome]:
    """Every run, in order. `folder` is for the repository and a picture; `python` has tritonclient and pillow."""
    repository = write_repository(folder / "models")
    picture = folder / "picture.jpg"
    code = f"from PIL import Image; Image.new('RGB', (300, 300), (90, 140, 10)).save({str(picture)!r})"
    subprocess.run([str(python), "-c", code], check=True)
    with _served(repository) as (http, grpc):
        for run in runs():
            # The client of the repository API leaves the model unloaded.
            urllib.request.urlopen(f"http://{http}/v2/repository/models/simple/load", b"{}", timeout=30).close()
            words = {"HTTP": http, "GRPC": grpc, "PICTURE": str(picture)}
            arguments = [words.get(word, word) for word in run.arguments.split()]
            yield _outcome(run, [str(python), run.script, *arguments], examples)


def _outcome(run: Run, command: list[str], folder: Path) -> Outcome:
    try:
        done = subprocess.run(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=RUN_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Outcome(run, False, f"no end within {RUN_S} s")
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    return Outcome(run, done.returncode == 0, "" if done.returncode == 0 or not lines else lines[-1][:160])


@contextlib.contextmanager
def _served(repository: Path) -> Iterator[tuple[str, str]]:
    """Addresses of HTTP and gRPC."""
    command = [sys.executable, "-m", "batchwright_worker", "serve", "--model-repository", str(repository)]
    command += ["--http", "0", "--grpc", "0", "--shared-memory", "--server-name", "triton"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = next(filter(None, map(_LISTENS.search, process.stdout)), None)
            assert found is not None, "serve ended"
            _wait_ready(found[1])
            yield found[1], found[2]
        finally:
            process.terminate()
            process.wait(20)


def _wait_ready(address: str) -> None:
    end = time.monotonic() + _READY_S
    while time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError):
            urllib.request.urlopen(f"http://{address}/v2/health/ready", timeout=5).close()
            return
        time.sleep(0.2)
    raise AssertionError("the models are not ready")


# --- the models

_MODEL: Final = """
import numpy as np
import triton_python_backend_utils as pb_utils


def add_and_subtract(given):
    a, b = given["INPUT0"], given["INPUT1"]
    if a.dtype.kind == "O":
        numbers = np.vectorize(lambda text: int(text or 0), otypes=[np.int64])
        a, b = numbers(a), numbers(b)
        text = np.vectorize(lambda number: str(number).encode(), otypes=[object])
        return {"OUTPUT0": text(a + b), "OUTPUT1": text(a - b)}
    return {"OUTPUT0": a + b, "OUTPUT1": a - b}


def identity(given):
    return {"OUTPUT0": given["INPUT0"]}


def brightness(given):
    pictures = given["data_0"]
    rows = pictures.reshape(-1, 3, 224, 224)
    scores = np.zeros((len(rows), 1000, 1, 1), np.float32)
    scores[:, 504] = np.abs(rows).mean(axis=(1, 2, 3)).reshape(-1, 1, 1) + 1
    return {"fc6_1": scores if pictures.ndim == 4 else scores[0]}


class TritonPythonModel:
    def execute(self, requests):
        answers = [FUNCTION({each.name(): each.as_numpy() for each in request.inputs()}) for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor(*item) for item in answer.items()]) for answer in answers]
"""


def write_repository(folder: Path) -> Path:
    """Seven Python models, as many as the client of the repository API wants to see."""
    pair = ("INPUT0", "INPUT1"), ("OUTPUT0", "OUTPUT1")
    for name, datatype in (("simple", "INT32"), ("simple_int8", "INT8"), ("simple_string", "STRING")):
        _write(folder, name, "add_and_subtract", _config(8, datatype, "16", *pair))
    one = ("INPUT0",), ("OUTPUT0",)
    _write(folder, "simple_identity", "identity", _config(8, "STRING", "-1", *one))
    _write(folder, "custom_identity_int32", "identity", _config(8, "INT32", "-1", *one))
    for name, rows in (("densenet_onnx", 0), ("inception_graphdef", 8)):
        config = (
            f"max_batch_size: {rows}\n"
            'input { name: "data_0" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 224, 224 ] }\n'
            'output { name: "fc6_1" data_type: TYPE_FP32 dims: [ 1000, 1, 1 ] label_filename: "labels.txt" }\n'
        )
        _write(folder, name, "brightness", config)
        (folder / name / "labels.txt").write_text("".join(f"class {number}\n" for number in range(1000)))
    return folder


def _config(rows: int, datatype: str, dims: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> str:
    tensors = [("input", name) for name in inputs] + [("output", name) for name in outputs]
    lines = [f'{what} {{ name: "{name}" data_type: TYPE_{datatype} dims: [ {dims} ] }}' for what, name in tensors]
    return "\n".join([f"max_batch_size: {rows}", *lines, "dynamic_batching { }"])


def _write(folder: Path, name: str, function: str, config: str) -> None:
    (folder / name / "1").mkdir(parents=True)
    (folder / name / "1" / "model.py").write_text(_MODEL.replace("FUNCTION", function))
    (folder / name / "config.pbtxt").write_text(f'backend: "python"\n{config}')
