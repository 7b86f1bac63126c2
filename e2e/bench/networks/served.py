"""The sidecar's arm: `serve` with the framework's process on one CPU, sidecar and callers on the other."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from e2e.bench.client.connections import Client
from e2e.bench.client.wire import Sample
from e2e.bench.cpu import metered
from e2e.bench.networks.workloads import Rows, Workload
from e2e.bench.servers import Cores, Server, batchwright, deployment

CALLERS: Final = 64
_SETTLED_CORES: Final = 0.05
_DISTINCT: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRate:
    """What callers in a closed loop got. `batch`: mean rows per batch; `sidecar_cores`: CPU of the sidecar."""

    rows_per_second: float
    batch: float
    sidecar_cores: float
    failed: int


@contextlib.contextmanager
def serving(workload: Workload, format_: str, framework: int, rest: int, **batching: Any) -> Iterator[Server]:
    """Ready and idle, the runtime on CPU `framework` with one thread, all else on CPU `rest`."""
    model = {
        "name": "m",
        "artifacts": [{"accelerator": "cpu", "format": format_, "uri": workload.path(format_).as_uri()}],
        "batching": {"maxSize": 32, **batching},
        **workload.manifest_tensors,
    }
    if workload.bucket:
        model["batching"]["padding"] = {"dimension": 0, "multiple": workload.bucket, "value": "0"}
    with batchwright(deployment([model]), Cores(server=(rest,)), "cpu") as server:
        pin_runtimes(server, framework)
        yield server


def pin_runtimes(server: Server, *cpus: int) -> None:
    """The framework's processes onto these CPUs; returns when they are idle."""
    for process in psutil.Process(server.leader).children(recursive=True):
        if server.part(process.cmdline()) == "runtime":
            _pin(process, cpus)
    _await_idle(server)


def served_rate(server: Server, workload: Workload, seconds: float, *, warm: float = 8.0) -> ServedRate:
    """`warm` seconds of the same load first: sizes settle."""
    loop = ClosedLoop(server.port, [request_for(workload.row(number)) for number in range(_DISTINCT)])
    loop.start(CALLERS)
    time.sleep(warm)
    before = batches_of(server)
    with metered(server.leader, server.part) as usage:
        begin = time.perf_counter()
        time.sleep(seconds)
        end = time.perf_counter()
    rows, runs = (now - then for now, then in zip(batches_of(server), before, strict=True))
    loop.stop()
    return ServedRate(
        rows_per_second=loop.rate(begin, end),
        batch=rows / max(1, runs),
        sidecar_cores=usage.cores().get("sidecar", 0.0),
        failed=loop.failed,
    )


@dataclass(slots=True)
class ClosedLoop:
    """Callers that ask again as soon as they are answered; rows are taken in turn."""

    port: int
    samples: Sequence[Sample]
    failed: int = 0
    _times: list[float] = field(default_factory=list)
    _client: Client | None = None
    _next: int = 0
    _open: int = 0
    _stopping: bool = False
    _ended: threading.Event = field(default_factory=threading.Event)

    def start(self, callers: int) -> None:
        self._client = Client(("127.0.0.1", self.port), self._done, opened=callers, limit=callers)
        self._client.start()
        self._open = callers
        for _ in range(callers):
            self._ask()

    def stop(self) -> None:
        """Returns when all answers are there."""
        self._stopping = True
        self._ended.wait(60)
        assert self._client is not None
        self._client.close()

    def rate(self, begin: float, end: float) -> float:
        """Answers per second: the slope of their count, because answers come in bursts of a batch."""
        times = np.array([each for each in self._times if begin <= each < end])
        return float(np.polyfit(times - begin, np.arange(len(times)), 1)[0]) if len(times) > 2 else 0.0

    def _ask(self) -> None:
        number, self._next = self._next, self._next + 1
        assert self._client is not None
        self._client.send(number, self.samples[number % len(self.samples)])

    def _done(self, _number: int, status: int) -> None:
        self._times.append(time.perf_counter())
        self.failed += status != 200
        if not self._stopping:
            self._ask()
            return
        self._open -= 1
        if not self._open:
            self._ended.set()


def answer_of(server: Server, rows: Rows, output: str) -> Any:
    """The output for these rows, to compare with the framework's."""
    import urllib.request

    length, body = binary_body(rows)
    headers = {"Inference-Header-Content-Length": str(length)}
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}/v2/models/m/infer", data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        raw = response.read()
        told = json.loads(raw[: int(response.headers["Inference-Header-Content-Length"])])
    [found] = [each for each in told["outputs"] if each["name"] == output]
    return np.frombuffer(raw[-found["parameters"]["binary_data_size"] :], np.float32).reshape(found["shape"])


def request_for(rows: Rows) -> Sample:
    """The request with these rows; any answer is right."""
    length, body = binary_body(rows)
    head = f"POST /v2/models/m/infer HTTP/1.1\r\nhost: bench\r\ncontent-length: {len(body)}\r\n"
    head += f"content-type: application/octet-stream\r\ninference-header-content-length: {length}\r\n\r\n"
    return Sample(request=head.encode() + body, answer=b"")


def binary_body(rows: Rows) -> tuple[int, bytes]:
    """Of a request with these rows that asks for binary outputs: bytes of its JSON, and all of it."""
    names = {np.dtype(np.int64): "INT64", np.dtype(np.float32): "FP32", np.dtype(np.uint8): "UINT8"}
    inputs = [
        {
            "name": name,
            "datatype": names[array.dtype],
            "shape": list(array.shape),
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in rows.items()
    ]
    header = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return len(header), header + b"".join(array.tobytes() for array in rows.values())


def batches_of(server: Server) -> tuple[float, float]:
    """Rows and batches so far."""
    totals = {"nv_inference_count": 0.0, "nv_inference_exec_count": 0.0}
    for line in server.get("/metrics").decode().splitlines():
        name = line.partition("{")[0]
        for key in totals:
            if name in (key, f"{key}_total"):
                totals[key] += float(line.rsplit(" ", 1)[1])
    return totals["nv_inference_count"], totals["nv_inference_exec_count"]


def _pin(process: psutil.Process, cpus: Sequence[int]) -> None:
    """All its threads."""
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), cpus)


def _await_idle(server: Server) -> None:
    """Warm-up batches and the spare process's imports are over."""
    for _ in range(60):
        with metered(server.leader, server.part) as usage:
            time.sleep(0.5)
        if sum(usage.cores().values()) < _SETTLED_CORES:
            return
