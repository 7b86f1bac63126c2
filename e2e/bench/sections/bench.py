"""What every section has at hand: cores, durations, the report, and a few ways to load a server."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from e2e.bench.client.generator import Spec
from e2e.bench.client.load import drive, spec_for
from e2e.bench.client.wire import request_of
from e2e.bench.cpu import metered, others
from e2e.bench.device import Device
from e2e.bench.report import Bar, Report
from e2e.bench.run import Run, device_truth
from e2e.bench.servers import SHAPE, Cores, Server

DEVICE = Device()
TARGET_MS = 100
TARGET_S = TARGET_MS / 1e3
IDLE_S = 4.0
SETTLED_S = 0.06
"""A single request on an idle server takes less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One call of the command. `servers`: which of batchwright, mosec, plain."""

    report: Report
    cores: Cores
    quick: bool
    servers: tuple[str, ...] = ("batchwright", "mosec", "plain")

    def lasting(self, full: float, quick: float) -> float:
        """Seconds."""
        return quick if self.quick else full

    def load(self, section: str, server: Server, rate: float, seconds: float, **fields: Any) -> Run:
        """One open-loop run (rate 0: 64 connections in a closed loop), noted. A run whose generator was late is
        repeated once."""
        target_s = fields.pop("target_s", TARGET_S)
        spec = spec_for(server, rate, seconds, **fields)
        run = self._driven(section, server, spec, target_s)
        if not run.valid and rate:
            settle(server, spec.output)
            run = self._driven(section, server, spec, target_s, again=True)
        return run

    def _driven(self, section: str, server: Server, spec: Spec, target_s: float, **facts: Any) -> Run:
        with others(server.leader) as besides:
            run = drive(spec, self.cores)
        return self.report.ran(section, server.name, run, target_s, other_cores=round(besides.cores, 3), **facts)

    def highest_rate(
        self, section: str, server: Server, most: float, good: Callable[[Run], bool], **fields: Any
    ) -> int:
        """The highest rate, in steps of 10/s (20 if quick), whose run is good: by bisection, each rate tried once."""
        step = 20 if self.quick else 10
        low, high = 0, int(most // step) + 1
        while high - low > 1:
            middle = (low + high) // 2
            run = self.load(section, server, middle * step, self.lasting(20, 5), **fields)
            low, high = (middle, high) if good(run) else (low, middle)
            settle(server, fields.get("output", "argmax"))
        return low * step

    def idle_cores(self, server: Server) -> dict[str, float]:
        """What the server uses while nobody asks for anything."""
        time.sleep(3.0)  # a runtime's spare process imports its libraries behind the first load
        with metered(server.leader, server.part) as usage:
            time.sleep(self.lasting(IDLE_S, 3))
        return usage.cores()

    def check_device(self, run: Run, device: Device, what: str) -> None:
        """A missed bar if answers came faster than the device can be (a generator that reads late makes bunches)."""
        truth = device_truth(run, device)
        line = (
            f"device of {what}: fastest answer {truth.fastest_ms:.2f} ms (at least {truth.least_ms:g}), most answers "
            f"in a second {truth.most_per_second:g} (at most {truth.ceiling_per_second:.0f})"
        )
        self.report.progress(line if truth.holds else f"UNTRUE {line}")
        self.report.records.append({"device": what, "truth": truth.holds, "fastest_ms": truth.fastest_ms})
        if not truth.holds:
            name, most = f"true device of {what}", truth.most_per_second
            fastest = Bar(name=f"{name}: fastest", measured=truth.fastest_ms, wanted=truth.least_ms, at_least=True)
            limit = truth.ceiling_per_second
            busiest = Bar(name=f"{name}: /s", measured=most, wanted=limit, at_least=False, valid=run.valid)
            self.report.bar(busiest if fastest.passed else fastest)


def settle(server: Server, output: str = "argmax", within_s: float = 60.0) -> None:
    """Wait until single requests are answered as on an idle server: what an overload has left is worked off."""
    row, deadline, quick_ones = bytes(4 * SHAPE[0] * SHAPE[1] * SHAPE[2]), time.monotonic() + within_s, 0
    while quick_ones < 2 and time.monotonic() < deadline:
        began = time.monotonic()
        try:
            good = ask(server, row, output)[0] == 200 and time.monotonic() - began < SETTLED_S
        except OSError:
            good = False
        quick_ones = quick_ones + 1 if good else 0
        time.sleep(0.05)


def ask(server: Server, row: bytes, output: str = "argmax") -> tuple[int, bytes]:
    """Status and body of one request."""
    head, _, body = request_of(server.protocol, row, SHAPE, output=output).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines if not line.startswith("host"))
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        connection.request("POST", first.split()[1], body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
