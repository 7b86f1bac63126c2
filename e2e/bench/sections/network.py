"""The same table on a real network: onnxruntime on one CPU thread behind every server."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from e2e.bench.client.wire import rows_of
from e2e.bench.network import write_network
from e2e.bench.peers.model import PeerModel, forward_of
from e2e.bench.report import Bar
from e2e.bench.sections.bench import TARGET_MS, TARGET_S, Bench, ask, settle
from e2e.bench.servers import SHAPE, Cores, Server, batchwright, deployment, peer

_FIELDS: dict[str, Any] = {"output": "y", "checked": False}


@dataclass(slots=True, kw_only=True)
class Row:
    """One server's line."""

    name: str
    highest: int
    saturation: float
    p50_ms: float
    p99_ms: float
    overload: float


def network(bench: Bench) -> None:
    """Beside the framework driven directly at its best batch size. Servers are not pinned: the framework's thread may
    have a core for itself in all arms."""
    with tempfile.TemporaryDirectory(prefix="batchwright-network-") as scratch:
        path = write_network(Path(scratch) / "residual.onnx")
        size, direct = _direct(bench, path)
        unpinned = replace(bench, cores=Cores())
        rows = []
        for name in bench.servers:
            with _serving(bench, name, path) as server:
                _check(server, path)
                rows.append(_row(unpinned, server, direct))
    cells = [
        (
            row.name,
            row.highest,
            f"{row.saturation:.0f} ({row.saturation / direct:.0%})",
            f"{row.p50_ms:.1f} / {row.p99_ms:.1f}",
            f"{row.overload:.0f}",
        )
        for row in rows
    ]
    bench.report.table(
        f"Residual network on onnxruntime, one CPU thread; driven directly {direct:.0f}/s at batches of {size}",
        ("server", "max QPS", "saturation/s", "20/s p50 / p99 ms", f"{1.5 * direct:.0f}/s: in time/s"),
        cells,
    )
    for row in rows:
        if row.name == "Batchwright":
            share = row.saturation / direct
            bench.report.bar(Bar(name="CPU network: saturation / direct", measured=share, wanted=0.95, at_least=True))


def _model(path: Path) -> PeerModel:
    return PeerModel(name="m", shape=list(SHAPE), onnx=str(path))


def _direct(bench: Bench, path: Path) -> tuple[int, float]:
    """The framework's best batch size and its rows per second."""
    forward, best = forward_of(_model(path)), (1, 0.0)
    for size in (1, 2, 4, 8, 16, 32):
        bodies = rows_of(size, SHAPE, 1)
        forward(bodies)
        count, began = 0, time.perf_counter()
        while (spent := time.perf_counter() - began) < bench.lasting(2, 0.7):
            forward(bodies)
            count += size
        bench.report.progress(f"directly, batches of {size}: {count / spent:.0f}/s")
        best = max(best, (size, count / spent), key=lambda pair: pair[1])
    return best


@contextlib.contextmanager
def _serving(bench: Bench, name: str, path: Path) -> Iterator[Server]:
    bench.report.progress(f"starting {name} with the network")
    if name == "batchwright":
        model = {
            "name": "m",
            "artifacts": [{"accelerator": "cpu", "format": "onnx", "uri": path.as_uri()}],
            "batching": {"maxSize": 32},
            "targets": {"latencyMilliseconds": TARGET_MS},
        }
        with batchwright(deployment([model]), Cores(), "cpu") as server:
            yield server
    else:
        with peer("mosec" if name == "mosec" else "plain", _model(path), Cores()) as server:
            yield server


def _check(server: Server, path: Path) -> None:
    """Every server answers what the network answers, to float32's accuracy."""
    forward = forward_of(_model(path))
    for row in rows_of(4, SHAPE, 77):
        wanted = np.frombuffer(forward([row])[0], np.float32)
        given = np.frombuffer(ask(server, row, "y")[1][-wanted.nbytes :], np.float32)
        np.testing.assert_allclose(given, wanted, rtol=1e-3, atol=1e-3)


def _row(bench: Bench, server: Server, direct: float) -> Row:
    light = bench.load("network", server, 20, bench.lasting(20, 5), **_FIELDS)
    highest = bench.highest_rate("network", server, direct, lambda run: run.latency_ms(0.99) <= TARGET_MS, **_FIELDS)
    closed = bench.load("network", server, 0, bench.lasting(10, 4), **_FIELDS)
    settle(server, "y")
    over = bench.load("network", server, 1.5 * direct, bench.lasting(15, 5), **_FIELDS)
    return Row(
        name=server.name,
        highest=highest,
        saturation=closed.answered_rate(),
        p50_ms=light.answered_latency_ms(0.5),
        p99_ms=light.answered_latency_ms(0.99),
        overload=over.in_time_rate(TARGET_S),
    )
