"""Models through `batchwright-worker serve`: many in one process, asked over HTTP with binary tensors."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import yaml
from numpy.typing import NDArray

from batchwright_worker.oip.datatypes import name_of
from batchwright_worker.oip.http_tensors import HEADER_LENGTH, HttpInferResponse, array_of, raw_of

_LOADED_S: Final = 300.0
Answer = dict[str, NDArray[Any]]


class RefusedError(Exception):
    """The server has refused; the text is its own."""


@dataclass(frozen=True, slots=True)
class Serve:
    """A running `serve`. `states`: per model, its state and what is said of it."""

    url: str
    states: Mapping[str, tuple[str, str]]

    def infer(self, model: str, inputs: Mapping[str, NDArray[Any]]) -> Answer:
        """Raises RefusedError for any other answer than 200."""
        header, body = _request(inputs)
        length = {HEADER_LENGTH: str(len(header)), "Content-Type": "application/octet-stream"}
        request = urllib.request.Request(f"{self.url}/v2/models/{model}/infer", header + body, length)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                answer, size = response.read(), response.headers.get(HEADER_LENGTH)
        except urllib.error.HTTPError as error:
            with error:
                raise RefusedError(f"{error.code} {json.loads(error.read())['error']}") from error
        return _answer(answer, None if size is None else int(size))


@contextlib.contextmanager
def served(folder: Path, models: Mapping[str, Path], **settings: Any) -> Iterator[Serve]:
    """These ONNX files by name, once each has loaded or failed; `settings` are fields of each model."""
    listed = [
        {"name": name, "artifacts": [{"format": "onnx", "uri": path.as_uri()}], **settings}
        for name, path in models.items()
    ]
    document = {
        "apiVersion": "batchwright.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "conformance"},
        "spec": {"models": listed},
    }
    manifest, said, log = folder / "deployment.yaml", folder / "said.txt", folder / "log.txt"
    manifest.write_text(yaml.safe_dump(document))
    command = [sys.executable, "-m", "batchwright_worker", "serve", "-f", str(manifest), "--http", "0", "--grpc", "0"]
    # Into files: what nobody reads from a pipe blocks the process that writes it.
    with said.open("w") as output, log.open("w") as errors:
        process = subprocess.Popen(command, stdout=output, stderr=errors)
        try:
            yield _loaded(process, said)
        finally:
            process.terminate()
            process.wait(60)


def _loaded(process: subprocess.Popen[bytes], said: Path) -> Serve:
    """Once each model has loaded or failed. Raises RuntimeError."""
    end, url = time.monotonic() + _LOADED_S, ""
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.2)
        if not url:
            found = re.search(r"http://127\.0\.0\.1:\d+", said.read_text())
            url = found[0] if found else ""
            continue
        request = urllib.request.Request(f"{url}/v2/repository/index", b"{}")
        with urllib.request.urlopen(request, timeout=60) as response:
            index = json.load(response)
        if all(each["state"] != "LOADING" for each in index):
            return Serve(url, {each["name"]: (each["state"], each["reason"]) for each in index})
    raise RuntimeError(f"serve ended ({process.returncode}), or did not load all models in {_LOADED_S:.0f} s")


def _request(inputs: Mapping[str, NDArray[Any]]) -> tuple[bytes, bytes]:
    tensors, parts = [], []
    for name, array in inputs.items():
        datatype = name_of(array.dtype)
        part = bytes(raw_of(datatype, array))
        shape = list(array.shape)
        parts.append(part)
        tensors.append(
            {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(part)}}
        )
    header = {"inputs": tensors, "parameters": {"binary_data_output": True}}
    return json.dumps(header).encode(), b"".join(parts)


def _answer(body: bytes, header_length: int | None) -> Answer:
    position = len(body) if header_length is None else header_length
    outputs: Answer = {}
    for tensor in msgspec.json.decode(body[:position], type=HttpInferResponse).outputs:
        array, position = array_of(tensor, body, position)
        outputs[tensor.name] = np.asarray(array)
    return outputs
