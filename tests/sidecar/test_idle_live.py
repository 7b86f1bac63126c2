"""A pod without requests: nothing of ours polls (method B6)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.protocol.serving import emulated_model, manifest, serving
from tests.reliability.usage import family

SECONDS = 2.0


def wakes(pid: int) -> int:
    """How often this process's own threads have gone to sleep. (Those of gRPC's core have names of their own: its
    timers and its pool wake seven times a second in all, for 0.03 % of a core.)"""
    own, total = Path(f"/proc/{pid}/comm").read_text(), 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text() == own:
            lines = (task / "status").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches:"))
    return total


def test_nothing_wakes_up_while_nobody_asks(tmp_path: Path) -> None:
    with serving(tmp_path, manifest("idle", [emulated_model("m", fixed_ms=1)])) as served:
        roles = family(served.process.pid)
        runtimes = psutil.Process(roles["supervisor"]).children()
        pids = [roles["sidecar"], roles["supervisor"], *(runtime.pid for runtime in runtimes)]
        # At first windows close, and a spare runtime imports its libraries; who polls is never quiet.
        assert any(not woken(pids) for _ in range(5))


def woken(pids: Sequence[int]) -> list[int]:
    """Which of these processes wake up more than once within SECONDS."""
    before = {pid: wakes(pid) for pid in pids}
    time.sleep(SECONDS)
    return [pid for pid in pids if wakes(pid) - before[pid] > 1]
