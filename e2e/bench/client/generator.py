"""The process that makes the load: MLPerf LoadGen's Server scenario (open loop), or so many closed-loop connections.

    python -m e2e.bench.client.generator SPEC.json RESULT.npz

It says `ready` when it could begin, and waits for a line with the origin of the clock that `start_at` counts from.
A process of its own, so that it can be pinned and its CPU time does not count as anyone else's. RESULT has one entry
per request: `scheduled`, `sent`, `done` (nanoseconds of the monotonic clock, 0: never) and `latency` (LoadGen's own,
from the schedule), `status` and `index` of the sample.
"""

from __future__ import annotations

import bisect
import itertools
import re
import sys
import tempfile
import time
from array import array
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from e2e.bench.client.connections import Client
from e2e.bench.client.wire import Protocol, Sample, argmax_answer, request_of, rows_of

_TRACED = re.compile(
    rb'"sample_seq": ?(\d+), ?"query_seq": ?\d+, ?"sample_idx": ?\d+, '
    rb'?"issue_start_ns": ?(-?\d+), ?"complete_ns": ?(\d+)'
)
_INDICES = 10_000
"""Samples that LoadGen chooses from, uniformly; `models` are spread over them by weight."""


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `rate` 0: closed loop of `connections`. `start_at`: seconds after the origin, which several share.

    `models`: name -> weight. `checked`: answers must be the emulated device's argmax."""

    port: int
    protocol: Protocol
    seconds: float
    rate: float = 0.0
    connections: int = 64
    limit: int = 2048
    seed: int = 1
    shape: tuple[int, ...] = (3, 32, 32)
    models: dict[str, float] = msgspec.field(default_factory=lambda: {"m": 1.0})
    output: str = "argmax"
    checked: bool = True
    start_at: float = 0.0
    grace_s: float = 3.0
    """How long after the last request answers are waited for."""


class Samples:
    """What LoadGen may ask for: an index is a model (by weight) and a row."""

    def __init__(self, spec: Spec) -> None:
        self._names = list(spec.models)
        total = sum(spec.models.values())
        self._ends = list(itertools.accumulate(weight / total * _INDICES for weight in spec.models.values()))
        rows = rows_of(max(4, 64 // len(self._names)), spec.shape, spec.seed)
        self._samples = [[self._sample(spec, model, row) for row in rows] for model in self._names]

    @staticmethod
    def _sample(spec: Spec, model: str, row: bytes) -> Sample:
        request = request_of(spec.protocol, row, spec.shape, model, spec.output)
        return Sample(request=request, answer=argmax_answer(row) if spec.checked else b"")

    def all(self) -> list[Sample]:
        """By index."""
        found = []
        for index in range(_INDICES):
            model = min(bisect.bisect_right(self._ends, index), len(self._names) - 1)
            of_model = self._samples[model]
            found.append(of_model[index % len(of_model)])
        return found


class Record:
    """Written by two threads, each its own columns."""

    def __init__(self, capacity: int) -> None:
        self.sent = array("q")
        self.index = array("i")
        self.done = array("q", bytes(8 * capacity))
        self.status = array("h", bytes(2 * capacity))

    def columns(self) -> dict[str, NDArray[Any]]:
        """All requests that were sent."""
        count = len(self.sent)
        whole = {"sent": self.sent, "index": self.index, "done": self.done, "status": self.status}
        return {name: np.array(column, np.int64)[:count] for name, column in whole.items()}


def main() -> None:
    """One run."""
    spec = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Spec)
    sys.setswitchinterval(1e-4)  # the default lets one thread keep the other waiting for 5 ms
    columns = open_loop(spec) if spec.rate else closed_loop(spec)
    np.savez(sys.argv[2], allow_pickle=False, **columns)


def closed_loop(spec: Spec) -> dict[str, NDArray[Any]]:
    """Each connection asks again as soon as it is answered; `scheduled` is when it asked."""
    samples, record = Samples(spec).all(), Record(int(spec.seconds * 40_000) + 10_000)
    end = 0.0

    def ask() -> None:
        number = len(record.sent)
        record.index.append(number % _INDICES)
        record.sent.append(time.monotonic_ns())
        client.send(number, samples[number % _INDICES])

    def done(number: int, status: int) -> None:
        record.done[number], record.status[number] = time.monotonic_ns(), status
        if time.monotonic() < end and len(record.sent) < len(record.done):
            ask()

    client = Client(("127.0.0.1", spec.port), done, opened=spec.connections, limit=spec.connections)
    _sleep_until(_origin() + spec.start_at)
    end = time.monotonic() + spec.seconds
    for _ in range(spec.connections):
        ask()
    client.start()
    _sleep_until(end + 0.2)
    client.give_up(spec.grace_s)
    while not all(record.done[number] for number in range(len(record.sent) - spec.connections, len(record.sent))):
        time.sleep(0.05)
    client.close()
    columns = record.columns()
    return {**columns, "scheduled": columns["sent"], "latency": columns["done"] - columns["sent"]}


def open_loop(spec: Spec) -> dict[str, NDArray[Any]]:
    """LoadGen's Poisson schedule; requests are sent from LoadGen's own thread."""
    import mlperf_loadgen as lg

    samples, record = Samples(spec).all(), Record(int(spec.rate * spec.seconds * 1.5) + 10_000)
    ids = array("Q")

    def issue(queries: list[Any]) -> None:
        for query in queries:
            number = len(ids)
            ids.append(query.id)
            record.index.append(query.index)
            record.sent.append(time.monotonic_ns())
            client.send(number, samples[query.index])

    def done(number: int, status: int) -> None:
        at = time.monotonic_ns()  # before LoadGen's own, so that its latency never is the shorter one
        lg.QuerySamplesComplete([lg.QuerySampleResponse(ids[number], 0, 0)])
        record.done[number], record.status[number] = at, status

    client = Client(("127.0.0.1", spec.port), done, opened=spec.connections, limit=spec.limit)
    client.start()
    sut = lg.ConstructSUT(issue, lambda: client.give_up(spec.grace_s))
    qsl = lg.ConstructQSL(_INDICES, _INDICES, lambda _: None, lambda _: None)
    with tempfile.TemporaryDirectory(prefix="batchwright-loadgen-") as folder:
        _sleep_until(_origin() + spec.start_at)
        lg.StartTestWithLogSettings(sut, qsl, _settings(lg, spec), _log_settings(lg, folder), "")
        client.close()
        trace = (Path(folder) / "mlperf_log_trace.json").read_bytes()
    lg.DestroyQSL(qsl)
    lg.DestroySUT(sut)
    return _joined(record.columns(), trace)


def _settings(lg: Any, spec: Spec) -> Any:
    settings = lg.TestSettings()
    settings.scenario = lg.TestScenario.Server
    settings.mode = lg.TestMode.PerformanceOnly
    settings.server_target_qps = spec.rate
    settings.server_coalesce_queries = False
    settings.server_max_async_queries = 0  # no limit: the load does not wait for the server
    settings.min_duration_ms = int(spec.seconds * 1000)
    settings.min_query_count = 1
    settings.sample_index_rng_seed = spec.seed
    settings.schedule_rng_seed = spec.seed + 1000
    settings.qsl_rng_seed = spec.seed + 2000
    return settings


def _log_settings(lg: Any, folder: str) -> Any:
    output = lg.LogOutputSettings()
    output.outdir = folder
    output.copy_summary_to_stdout = False
    settings = lg.LogSettings()
    settings.log_output = output
    settings.enable_trace = True
    return settings


def _joined(columns: dict[str, NDArray[Any]], trace: bytes) -> dict[str, NDArray[Any]]:
    """LoadGen counts from its own origin: the quickest hand-over of a request to us tells where that lies."""
    found = np.array([[int(part) for part in match.groups()] for match in _TRACED.finditer(trace)], np.int64)
    if len(found) != len(columns["sent"]):
        raise RuntimeError(f"LoadGen traced {len(found)} requests of {len(columns['sent'])}")
    found = found[found[:, 0].argsort()]
    return {**columns, "scheduled": columns["sent"] - found[:, 1], "latency": found[:, 2]}


def _origin() -> float:
    """In monotonic seconds, from whoever started this process, once all that begin together are ready."""
    print("ready", flush=True)
    return float(sys.stdin.readline())


def _sleep_until(moment: float) -> None:
    while (rest := moment - time.monotonic()) > 0:
        time.sleep(rest)


if __name__ == "__main__":
    main()
