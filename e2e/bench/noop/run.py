"""What the front end and the way to the runtime cost: a no-op model, 12 kB binary requests over HTTP, beside Mosec.

    python -m e2e.bench.noop [--seconds 5] [--rounds 3] [--connections 64,8] [--json FILE]

The server is pinned to core 0 and the client (Debian's `wrk`) to core 1; Batchwright is measured with its runtime
beside the client on core 1, where a pod's other container would be, and with all of it on core 0, where all of Mosec
is.
Sides are measured in turn, `rounds` times; the table shows medians. An answer that is not 2xx fails the run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from e2e.cluster.machine import tools
from e2e.cluster.machine.errors import RequirementError

HERE = Path(__file__).resolve().parent
ROWS = 1
SHAPE = (3, 32, 32)
_BYTES = 4 * 3 * 32 * 32
MANIFEST = """
apiVersion: batchwright.dev/v1alpha1
kind: ModelDeployment
metadata: {name: noop}
spec:
  models:
  - name: noop
    inputs: [{name: x, datatype: FP32, shape: [3, 32, 32]}]
    artifacts: [{format: emulated, emulated: {fixedMicroseconds: 0, perRowMicroseconds: 0}}]
    batching: {maxSize: 32}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run of wrk against one server; `cpu_us` is what the server's core spent per request, in microseconds, and
    `other_us` what its processes spent on the client's core."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    other_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server: its infer URL, the pids on core 0, those beside the client."""

    url: str
    pids: Sequence[int]
    beside: Sequence[int] = ()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", default="64,8")
    parser.add_argument("--sides", default="mosec,batchwright,batchwright-one-core")
    parser.add_argument("--mosec-python", default=None, help="interpreter that has mosec; default: this one")
    parser.add_argument("--json", type=Path, default=None, help="write the rounds to this file")
    args = parser.parse_args()
    try:
        tools.require("taskset", "wrk")
    except RequirementError as error:
        raise SystemExit(str(error)) from error
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("two cores are needed: one for the server, one for the client")
    connections = [int(each) for each in args.connections.split(",")]
    measured = measure(args.sides.split(","), connections, args)
    show(measured, connections)
    if args.json is not None:
        told = [{"side": side, "connections": count, **asdict(one)} for side, count, one in measured]
        args.json.write_text(json.dumps(told, indent=1))


def measure(
    sides: Sequence[str], connections: Sequence[int], args: argparse.Namespace
) -> list[tuple[str, int, Measured]]:
    """All rounds: (side, connections, what was measured)."""
    found = []
    with tempfile.TemporaryDirectory(prefix="batchwright-noop-") as scratch:
        request = Request(Path(scratch))
        for _ in range(args.rounds):
            for side in sides:
                with started(side, Path(scratch), args.mosec_python) as server:
                    request.until_answered(server.url)
                    request.load(server, max(connections), 1.0)
                    found += [(side, count, request.load(server, count, args.seconds)) for count in connections]
    return found


class Request:
    """The request of all sides: JSON header, line feed, 12,288 bytes of FP32."""

    def __init__(self, folder: Path) -> None:
        tensor = {"name": "x", "datatype": "FP32", "shape": [ROWS, *SHAPE], "parameters": {"binary_data_size": _BYTES}}
        asked = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
        header = json.dumps(asked, separators=(",", ":")).encode() + b"\n"
        self._body = header + os.urandom(_BYTES // 4).hex().encode()[: _BYTES // 4] * 4
        self._json_bytes = len(header)
        self._path = folder / "body"
        self._path.write_bytes(self._body)

    def until_answered(self, url: str) -> None:
        """Returns when the server answers 200."""
        end = time.monotonic() + 60
        while True:
            headers = {"Inference-Header-Content-Length": str(self._json_bytes)}
            try:
                with urllib.request.urlopen(urllib.request.Request(url, self._body, headers), timeout=10) as answer:
                    answer.read()
                    return
            except (urllib.error.URLError, ConnectionError) as error:
                if time.monotonic() > end:
                    raise SystemExit(f"{url} never answered 200: {error}") from error
                time.sleep(0.05)

    def load(self, server: Server, connections: int, seconds: float) -> Measured:
        """One run of wrk on core 1. Raises SystemExit for answers that are not 2xx."""
        command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--latency"]
        command += ["-s", str(HERE / "noop.lua"), server.url]
        environment = {**os.environ, "NOOP_BODY": str(self._path), "NOOP_JSON_BYTES": str(self._json_bytes)}
        before, before_beside = cpu_s(server.pids), cpu_s(server.beside)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        spent, beside = cpu_s(server.pids) - before, cpu_s(server.beside) - before_beside
        told = json.loads(done.stdout.strip().splitlines()[-1])
        if told["non_2xx"] or told["broken"] or not told["requests"]:
            raise SystemExit(f"{server.url}: {told}: not every answer was good")
        return Measured(
            requests_per_s=told["requests"] / told["seconds"],
            p50_ms=told["p50_ms"],
            p99_ms=told["p99_ms"],
            cpu_us=spent / told["requests"] * 1e6,
            other_us=beside / told["requests"] * 1e6,
        )


@contextlib.contextmanager
def started(side: str, scratch: Path, mosec_python: str | None) -> Iterator[Server]:
    """The server of one side, ended on leaving."""
    starter = mosec(mosec_python) if side == "mosec" else batchwright(scratch, one_core=side.endswith("one-core"))
    with starter as server:
        yield server


@contextlib.contextmanager
def mosec(python: str | None) -> Iterator[Server]:
    """Mosec, all of it on core 0."""
    port = 18_211
    command = ["taskset", "-c", "0", python or sys.executable, str(HERE / "mosec_app.py"), "--port", str(port)]
    with running([*command, "--log-level", "error"]) as process:
        time.sleep(1.5)
        yield Server(url=f"http://127.0.0.1:{port}/inference", pids=tree(process.pid))


@contextlib.contextmanager
def batchwright(scratch: Path, *, one_core: bool) -> Iterator[Server]:
    """`serve`; the sidecar on core 0, the runtime on core 1 or beside it."""
    manifest = scratch / "noop.yaml"
    manifest.write_text(MANIFEST)
    command = [sys.executable, "-m", "batchwright_worker", "serve", "-f", str(manifest), "--http", "0", "--grpc", "0"]
    with running(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = re.search(r"http://[0-9.:]+", line)
        if url is None:
            raise SystemExit(f"serve said {line!r}")
        pids = tree(process.pid)
        sidecar = [pid for pid in pids if " sidecar " in command_of(pid)]
        runtimes = [pid for pid in pids if " runtime " in command_of(pid)]
        for pids_of, core in ((sidecar, 0), (runtimes, 0 if one_core else 1)):
            for pid in pids_of:
                pin(pid, core)
        here, beside = ([*sidecar, *runtimes], []) if one_core else (sidecar, runtimes)
        yield Server(url=f"{url[0]}/v2/models/noop/infer", pids=here, beside=beside)


@contextlib.contextmanager
def running(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A child process, ended in good order on leaving."""
    with subprocess.Popen(command, text=True, **options) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def tree(root: int) -> list[int]:
    """A process and all below it."""
    found = [root]
    for pid in found:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


def pin(pid: int, core: int) -> None:
    """All threads of a process."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


def command_of(pid: int) -> str:
    """Its command line with blanks between arguments."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds of these processes so far."""
    total = 0.0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def show(measured: Sequence[tuple[str, int, Measured]], connections: Sequence[int]) -> None:
    """Medians, and the ratio to Mosec's requests per second."""
    print("| side | connections | req/s | of Mosec's | p50 ms | p99 ms | CPU us/request, core 0 | core 1 |")
    print("|---|---|---|---|---|---|---|---|")
    for count in connections:
        sides = list(dict.fromkeys(side for side, _, _ in measured))
        rates = {side: median(measured, side, count, "requests_per_s") for side in sides}
        for side in sides:
            ratio = f"{rates[side] / rates['mosec']:.2f}" if "mosec" in rates else "-"
            rest = [median(measured, side, count, name) for name in ("p50_ms", "p99_ms", "cpu_us", "other_us")]
            shown = " | ".join(f"{value:.2f}" if index < 2 else f"{value:.1f}" for index, value in enumerate(rest))
            print(f"| {side} | {count} | {rates[side]:,.0f} | {ratio} | {shown} |")


def median(measured: Sequence[tuple[str, int, Measured]], side: str, connections: int, name: str) -> float:
    """Of one figure over the rounds."""
    return statistics.median(
        float(asdict(one)[name]) for who, count, one in measured if (who, count) == (side, connections)
    )
