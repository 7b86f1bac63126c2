"""What loads of one ONNX model on a CPU cost the callers of another one.

    python -m e2e.bench.loads [--seconds 15] [--rounds 2]

A small model is asked 50 times a second; a large one (60 layers of 1024 x 1024, 252 MB) is unloaded and loaded again
all the while, by the repository API. Printed per round: the small model's latency from when each request was due,
without and with the loads, and how many loads there were.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from e2e.bench.noop.run import running

RATE = 50.0
_MANIFEST = """
apiVersion: batchwright.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: loads}}
spec:
  repositoryControl: true
  models:
  - {{name: small, artifacts: [{{format: onnx, uri: "{small}"}}]}}
  - {{name: large, artifacts: [{{format: onnx, uri: "{large}"}}]}}
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batchwright-loads-") as scratch:
        folder = Path(scratch)
        small, large = layers(folder / "small.onnx", 4, 256), layers(folder / "large.onnx", 60, 1024)
        manifest = folder / "loads.yaml"
        manifest.write_text(_MANIFEST.format(small=small.as_uri(), large=large.as_uri()))
        command = [sys.executable, "-m", "batchwright_worker", "serve", "-f", str(manifest), "--http", "0"]
        with running([*command, "--grpc", "0"], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            address = re.search(r"http://[0-9.:]+", line)
            if address is None:
                raise SystemExit(f"serve said {line!r}")
            server = Server(urlsplit(address[0]).netloc)
            server.until_ready()
            print("| loads | requests | p50 ms | p99 ms | longest ms |")
            print("|---|---|---|---|---|")
            for _ in range(args.rounds):
                show(0, server.asked(args.seconds))
                loads = Loads(server)
                seconds = server.asked(args.seconds)
                show(loads.end(), seconds)


class Server:
    """The server at `host:port`."""

    def __init__(self, address: str) -> None:
        self._address = address
        rows = {"name": "x", "datatype": "FP32", "shape": [1, 256], "data": [0.5] * 256}
        self._body = json.dumps({"inputs": [rows]})

    def until_ready(self) -> None:
        """Returns when both models are loaded."""
        end = time.monotonic() + 120
        while not all(self._get(f"/v2/models/{name}/ready") == 200 for name in ("small", "large")):
            if time.monotonic() > end:
                raise SystemExit("the models were never ready")
            time.sleep(0.1)

    def _get(self, path: str) -> int:
        connection = http.client.HTTPConnection(self._address, timeout=30)
        connection.request("GET", path)
        status = connection.getresponse().status
        connection.close()
        return status

    def repository(self, action: str) -> None:
        """Load or unload the large model. Raises SystemExit unless that goes well."""
        connection = http.client.HTTPConnection(self._address, timeout=120)
        connection.request("POST", f"/v2/repository/models/large/{action}", "{}")
        response = connection.getresponse()
        text = response.read()
        connection.close()
        if response.status != 200:
            raise SystemExit(f"{action}: {response.status} {text!r}")

    def asked(self, seconds: float) -> list[float]:
        """Latencies of the small model, one request after the other, each counted from when it was due."""
        connection = http.client.HTTPConnection(self._address, timeout=120)
        began, found = time.monotonic(), []
        for number in range(int(seconds * RATE)):
            due = began + number / RATE
            time.sleep(max(0.0, due - time.monotonic()))
            connection.request("POST", "/v2/models/small/infer", self._body)
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                raise SystemExit(f"infer: {response.status}")
            found.append(time.monotonic() - due)
        connection.close()
        return sorted(found)


class Loads:
    """Unloads and loads the large model again and again until `end`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._count, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def end(self) -> int:
        """How many loads there were."""
        self._stop.set()
        self._thread.join()
        return self._count

    def _work(self) -> None:
        while not self._stop.is_set():
            self._server.repository("unload")
            self._server.repository("load")
            self._count += 1


def show(loads: int, seconds: list[float]) -> None:
    """A row of the table."""
    p50, p99, longest = (seconds[min(len(seconds) - 1, int(q * len(seconds)))] * 1e3 for q in (0.5, 0.99, 1.0))
    print(f"| {loads} | {len(seconds)} | {p50:.1f} | {p99:.1f} | {longest:.1f} |", flush=True)


def layers(path: Path, count: int, width: int) -> Path:
    """A chain of matrix products."""
    random = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for number in range(count):
        values = random.normal(0, 0.03, (width, width)).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"w{number}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{number}"], [f"m{number}"]))
        nodes.append(helper.make_node("Relu", [f"m{number}"], [f"r{number}"]))
        last = f"r{number}"
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", width])]
    outputs = [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["rows", width])]
    graph = helper.make_graph(nodes, "layers", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


if __name__ == "__main__":
    main()
