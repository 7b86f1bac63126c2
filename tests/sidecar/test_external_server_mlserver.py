"""protocol: open-inference before a real MLServer, in an environment of its own: `serve --runtime-url`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from batchwright_worker.api.names import HEADER_BATCH_SIZE
from e2e.cluster.machine.ports import free_ports
from e2e.peers import peer_python
from tests.protocol.serving import Served, manifest, serving

pytestmark = pytest.mark.slow

SLOW = 99.0
MODEL = '''
import asyncio
import os
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceResponse

class Double(MLModel):
    """y = 2x; a negative number fails its batch, the first 99 takes for ever, more than 8 rows do not fit."""

    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0])
        if (x == 99).any() and not os.path.exists("slow.seen"):
            open("slow.seen", "w").close()
            open("slow", "w").close()
            await asyncio.sleep(3600)
        if (x < 0).any():
            raise InferenceError("negative numbers are not doubled")
        if len(x) > 8:
            raise InferenceError(f"out of memory with {len(x)} rows")
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", 2 * x)])
'''


@dataclass
class MLServer:
    """A real one; `start` again after its death serves on the same ports."""

    folder: Path
    http: int
    grpc: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [str(peer_python("mlserver").with_name("mlserver")), "start", str(self.folder)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLServer]:
    folder = tmp_path_factory.mktemp("mlserver")
    (folder / "double.py").write_text(MODEL)
    tensor = {"datatype": "FP32", "shape": [-1, 3]}
    settings = {"name": "double", "implementation": "double.Double"}
    settings |= {"inputs": [{"name": "x", **tensor}], "outputs": [{"name": "y", **tensor}]}
    (folder / "model-settings.json").write_text(json.dumps(settings))
    http, grpc, metrics = free_ports(3)
    ports = {"http_port": http, "grpc_port": grpc, "metrics_port": metrics, "host": "127.0.0.1"}
    (folder / "settings.json").write_text(json.dumps({**ports, "parallel_workers": 0, "debug": False}))
    server = MLServer(folder, http, grpc)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module", params=["http", "grpc"])
def front(
    server: MLServer, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Served]:
    """A sidecar whose batches travel by HTTP (MLServer takes JSON there) or by gRPC (raw)."""
    grpc = ["--runtime-grpc", f"127.0.0.1:{server.grpc}"] if request.param == "grpc" else []
    runtime = {"accelerator": "cpu", "protocol": "open-inference", "image": "mlserver", "port": 9000}
    model = {
        "name": "double",
        "artifacts": [{"format": "onnx", "uri": "pvc://models/double"}],
        "batching": {"maxQueueDelayMilliseconds": 50},
    }
    documents = manifest("own", [model], runtimes=[runtime], repositoryControl=True)
    with serving(
        tmp_path_factory.mktemp(request.param), documents, "--runtime-url", f"http://127.0.0.1:{server.http}", *grpc
    ) as served:
        yield served


def test_the_engine_batches_in_front_of_it(front: Served) -> None:
    values = np.arange(48, dtype=np.float32).reshape(16, 3)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda row: ask(front, row[None]), values))
    np.testing.assert_array_equal(np.concatenate([answer for answer, _ in answers]), 2 * values)
    assert max(batch for _, batch in answers) > 1
    for client in (ask_by_http, ask_by_grpc):
        assert client(front, values[:2]).tolist() == (2 * values[:2]).tolist()


def test_bad_rows_fail_alone_and_large_batches_are_split(front: Served) -> None:
    values = np.ones((12, 3), np.float32)
    values[5] = -1
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda row: outcome(front, row[None]), values))
    assert "negative numbers" in str(answers.pop(5))
    np.testing.assert_array_equal(np.concatenate(answers), np.full((11, 3), 2, np.float32))
    np.testing.assert_array_equal(ask(front, np.ones((20, 3), np.float32))[0], np.full((20, 3), 2, np.float32))


def test_models_are_loaded_and_unloaded_by_its_repository(front: Served, server: MLServer) -> None:
    assert front.get("/v2/repository/models/double/unload", b"{}")[0] == 200
    assert status(f"http://127.0.0.1:{server.http}/v2/models/double/ready") != 200
    assert front.get("/v2/repository/models/double/load", b"{}")[0] == 200
    assert status(f"http://127.0.0.1:{server.http}/v2/models/double/ready") == 200
    np.testing.assert_array_equal(ask(front, np.ones((1, 3), np.float32))[0], [[2, 2, 2]])


def test_a_kill_in_mid_traffic_costs_no_answer(front: Served, server: MLServer) -> None:
    """What ran is run again by the next process, what waits goes on waiting."""
    values = np.arange(30, dtype=np.float32).reshape(10, 3)
    with ThreadPoolExecutor(10) as pool:
        (server.folder / "slow.seen").unlink(missing_ok=True)
        slow = pool.submit(ask, front, np.full((1, 3), SLOW, np.float32))
        while not (server.folder / "slow").exists():
            time.sleep(0.01)
        server.stop()
        answers = [pool.submit(ask, front, row[None]) for row in values]
        (server.folder / "slow").unlink()
        server.start()
        np.testing.assert_array_equal(slow.result(90)[0], np.full((1, 3), 2 * SLOW))
        np.testing.assert_array_equal(np.concatenate([each.result(90)[0] for each in answers]), 2 * values)


def ask(front: Served, x: np.ndarray) -> tuple[np.ndarray, int]:
    """The answer, and the size of the batch that it ran in. Raises RuntimeError with the error's words."""
    given = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.reshape(-1).tolist()}
    code, headers, body = front.get("/v2/models/double/infer", json.dumps({"inputs": [given]}).encode())
    told = json.loads(body)
    if code != 200:
        raise RuntimeError(f"{code}: {told['error']}")
    [output] = told["outputs"]
    return np.array(output["data"], np.float32).reshape(output["shape"]), int(headers[HEADER_BATCH_SIZE])


def ask_by_http(front: Served, x: np.ndarray) -> np.ndarray:
    given = triton_http.InferInput("x", list(x.shape), "FP32")
    given.set_data_from_numpy(x)
    with contextlib.closing(triton_http.InferenceServerClient(f"127.0.0.1:{front.http}")) as client:
        answer: np.ndarray = client.infer("double", [given]).as_numpy("y")
    return answer


def ask_by_grpc(front: Served, x: np.ndarray) -> np.ndarray:
    given = triton_grpc.InferInput("x", list(x.shape), "FP32")
    given.set_data_from_numpy(x)
    with contextlib.closing(triton_grpc.InferenceServerClient(f"127.0.0.1:{front.grpc}")) as client:
        answer: np.ndarray = client.infer("double", [given]).as_numpy("y")
    return answer


def outcome(front: Served, x: np.ndarray) -> Any:
    """The answer or the error."""
    try:
        return ask(front, x)[0]
    except RuntimeError as error:
        return error


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return int(error.code)
