"""Callers with large bodies of JSON and strings beside callers with small ones: nobody waits for their decoding."""

from __future__ import annotations

import contextlib
import http.client
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.protocol.serving import emulated_model, manifest, serving

SMALL = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 8], "data": [0] * 8}]})
REQUESTS = 250


def latencies(port: int) -> tuple[float, float]:
    """Median and 99th percentile of small requests, one after the other, in seconds."""
    connection, taken = http.client.HTTPConnection("127.0.0.1", port), []
    for _ in range(REQUESTS):
        began = time.perf_counter()
        connection.request("POST", "/v2/models/small/infer", SMALL)
        response = connection.getresponse()
        response.read()
        assert response.status == 200
        taken.append(time.perf_counter() - began)
        time.sleep(0.003)
    connection.close()
    return statistics.median(taken), sorted(taken)[int(0.99 * len(taken))]


@contextlib.contextmanager
def large_callers(count: int, port: int, kind: str) -> Iterator[None]:
    """They are answered before, and until the end."""
    command = [sys.executable, "-m", "tests.reliability.large_caller", str(port), "small", kind]
    with contextlib.ExitStack() as stack:
        callers = [
            stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) for _ in range(count)
        ]
        for each in callers:
            stack.callback(each.kill)
        for each in callers:
            assert each.stdout is not None
            assert each.stdout.readline().strip() == "400"
        yield
        assert all(each.poll() is None for each in callers)


@pytest.mark.timed
@pytest.mark.parametrize("kind", ["strings", "numbers"])
@pytest.mark.parametrize("callers", [1, 3])
def test_small_requests_do_not_wait_for_large_bodies(tmp_path: Path, kind: str, callers: int) -> None:
    """The large ones are refused by the model's signature, once they are read: so it is the reading that is compared,
    not a device that all share."""
    with serving(tmp_path, manifest("large", [emulated_model("small", fixed_ms=5)])) as served:
        quiet = latencies(served.http)
        with large_callers(callers, served.http, kind):
            beside = latencies(served.http)
    ratios = [there / here for there, here in zip(beside, quiet, strict=True)]
    print(f"{kind} x{callers}: p50, p99 quiet {shown(quiet)} ms, beside {shown(beside)} ms, ratios {ratios}")
    # Callers and server share two cores; decoded in the loop, the median is that of a whole body (50 to 300 times).
    assert ratios[0] < 6


def shown(seconds: tuple[float, float]) -> list[float]:
    return [round(1e3 * each, 1) for each in seconds]
