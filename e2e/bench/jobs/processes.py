"""A command's processes while it runs: CPU seconds by what they are, and how much memory its first one has."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

EVERY_S = 0.2
_WARM = 1 / 3
"""Share of a run after which its memory is expected to be level."""


@dataclass(slots=True, kw_only=True)
class Watched:
    """`cpu_s` by part: runner, pool, sidecar, runtime. `resident`: bytes of the runner, every EVERY_S."""

    output: str = ""
    cpu_s: dict[str, float] = field(default_factory=dict)
    resident: list[int] = field(default_factory=list)

    @property
    def memory_growth(self) -> float:
        """Most over least memory once it is warm, less one."""
        level = self.resident[int(_WARM * len(self.resident)) :]
        return max(level) / min(level) - 1.0 if level else 0.0


def watched(command: Sequence[str], folder: Path) -> Watched:
    """Run it to its end. Raises SystemExit with its last words if it fails."""
    found = Watched()
    seen: dict[int, tuple[str, float]] = {}
    log = folder / "log"
    with log.open("wb") as words:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=words, text=True)
        ended = threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, seen, found.resident, ended))
        watcher.start()
        found.output, _ = process.communicate()
        ended.set()
        watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{log.read_text()[-3000:]}")
    for part, seconds in seen.values():
        found.cpu_s[part] = found.cpu_s.get(part, 0.0) + seconds
    return found


def _watch(root: int, seen: dict[int, tuple[str, float]], resident: list[int], ended: threading.Event) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        runner = psutil.Process(root)
        while not ended.wait(EVERY_S):
            for each in (runner, *runner.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    seen[each.pid] = _part(each, root, seen), sum(each.cpu_times()[:2])
            if rss := runner.memory_info().rss:  # one that has ended has none
                resident.append(rss)


def _part(process: psutil.Process, root: int, seen: Mapping[int, tuple[str, float]]) -> str:
    if process.pid == root:
        return "runner"
    if process.pid in seen and seen[process.pid][0] != "pool":
        return seen[process.pid][0]
    words = process.cmdline()
    return next((part for part in ("sidecar", "runtime") if part in words), "pool")
