"""Runs load generators against a server: one, or several at once on one clock."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from e2e.bench.client.generator import Spec
from e2e.bench.run import Run
from e2e.bench.servers import ROOT, Cores, Server, die_with_the_bench, pinned

_LEAD_S = 0.1
"""From the moment in which all generators are ready to the origin of their clock: until each has read it."""


class GeneratorFailed(Exception):  # noqa: N818
    """The message has its last words."""


def spec_for(server: Server, rate: float, seconds: float, **fields: Any) -> Spec:
    """A load for this server; rate 0: closed loop."""
    return Spec(port=server.port, protocol=server.protocol, rate=rate, seconds=seconds, **fields)


def drive(spec: Spec, cores: Cores) -> Run:
    """One load."""
    return drive_all([spec], cores)[0]


def drive_all(specs: Sequence[Spec], cores: Cores, meanwhile: Callable[[float], None] | None = None) -> list[Run]:
    """Loads whose `start_at` counts from one common origin, which lies where all of them have their requests built and
    their connections open. `meanwhile` is called with it while they run."""
    with tempfile.TemporaryDirectory(prefix="batchwright-load-") as scratch:
        folder = Path(scratch)
        processes: list[subprocess.Popen[str]] = []
        try:
            for number, spec in enumerate(specs):
                processes.append(_started(spec, folder, number, cores))
            origin = _begin_together(processes)
            if meanwhile is not None:
                meanwhile(origin)
            for process in processes:
                _, words = process.communicate()
                if process.returncode:
                    raise GeneratorFailed(f"the load generator ended with {process.returncode}:\n{words[-2000:]}")
        finally:
            for process in processes:
                process.kill()
                process.wait()
        return [_read(folder / f"{number}.npz", spec) for number, spec in enumerate(specs)]


def _started(spec: Spec, folder: Path, number: int, cores: Cores) -> subprocess.Popen[str]:
    (folder / f"{number}.json").write_bytes(msgspec.json.encode(spec))
    command = [
        sys.executable,
        "-m",
        "e2e.bench.client.generator",
        str(folder / f"{number}.json"),
        str(folder / f"{number}.npz"),
    ]
    with pinned(cores.client):
        return subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_the_bench,  # noqa: PLW1509 - the bench has one thread
        )


def _begin_together(processes: Sequence[subprocess.Popen[str]]) -> float:
    """Waits for all; the origin that they were told. One that ended early is left to who reads its last words."""
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    origin = time.monotonic() + _LEAD_S
    for process in processes:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(f"{origin!r}\n")
            process.stdin.flush()
    return origin


def _read(path: Path, spec: Spec) -> Run:
    with np.load(path) as columns:
        return Run.of(dict(columns), spec.rate, spec.seconds)
