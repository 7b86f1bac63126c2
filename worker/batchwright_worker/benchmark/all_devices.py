"""All devices of a processor at once: a process per device runs the reference model, and their rates are added.

What one device does alone is not what it does while its siblings work: host memory, PCIe lanes and power are shared.
Processes, as in a model pod (a runtime per device); threads of one would measure Python's lock.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

from batchwright_worker.benchmark.engines.base import BenchmarkError
from batchwright_worker.benchmark.engines.registry import engine_of
from batchwright_worker.host.accelerators import accelerator_of

READY = "ready"
START_S = 180.0
"""Longest start of all processes: libraries, the device, the weights, the first batch."""


def rate_of_all(kind: str, devices: Sequence[str], batch: int, seconds: float) -> float:
    """Images/s of these devices together, each for so many seconds. Raises BenchmarkError if one of them fails."""
    accelerator = accelerator_of(kind)
    variable = accelerator.visible_env if accelerator else ""
    with ExitStack() as stack:
        workers = []
        for device in devices:
            worker = _start(kind, batch, seconds, {variable: device} if variable else {})
            stack.callback(_end, worker)
            workers.append(worker)
        # All of them are ready before the first one starts, so that they work at the same time.
        until = time.monotonic() + START_S
        for worker in workers:
            _expect_ready(worker, until)
        for worker in workers:
            assert worker.stdin
            worker.stdin.write("go\n")
            worker.stdin.flush()
        return sum(_rate(worker, START_S + seconds) for worker in workers)


def _start(kind: str, batch: int, seconds: float, environ: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", __name__, kind, str(batch), str(seconds)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environ}
    )


def _expect_ready(worker: subprocess.Popen[str], until: float) -> None:
    assert worker.stdout
    if time.monotonic() > until or worker.stdout.readline().strip() != READY:
        raise BenchmarkError("a process for one of several devices did not start")


def _rate(worker: subprocess.Popen[str], timeout_s: float) -> float:
    try:
        out, _ = worker.communicate(timeout=timeout_s)
        return float(out)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise BenchmarkError("a process for one of several devices did not tell its rate") from error


def _end(worker: subprocess.Popen[str]) -> None:
    if worker.poll() is None:
        worker.kill()
    worker.wait()
    for pipe in (worker.stdin, worker.stdout):
        if pipe is not None and not pipe.closed:
            pipe.close()


def main(kind: str, batch: int, seconds: float) -> None:
    """One device: warms up, says `ready`, waits for a line, works, says its images/s."""
    engine = engine_of(kind)
    once_s = max(1e-6, engine.run(batch, 1))
    print(READY, flush=True)
    sys.stdin.readline()
    runs, spent_s, started = 0, 0.0, time.monotonic()
    while spent_s < seconds and time.monotonic() - started < seconds * 3:
        count = max(1, round(min(seconds - spent_s, 1.0) / once_s))
        once_s = (took_s := engine.run(batch, count)) / count
        runs, spent_s = runs + count, spent_s + took_s
    print(batch * runs / spent_s, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
