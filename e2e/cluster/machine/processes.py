"""Processes that outlive the command that started them, found again by pid and start time.

A pid alone may have been given to somebody else since; a pid with its start time names one process for ever.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from e2e.cluster.machine.errors import StartError
from e2e.cluster.machine.paths import write_private

_JOIN_CGROUPS = 'for group in $1; do echo $$ > "$group/cgroup.procs"; done; shift; exec "$@"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One started process: `started` is its start time in clock ticks since boot."""

    name: str
    pid: int
    started: int
    log: str

    @property
    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        return start_time(self.pid) == self.started

    def log_tail(self, lines: int = 12) -> str:
        """The last lines that the process wrote."""
        with contextlib.suppress(OSError):
            return "\n".join(Path(self.log).read_text(errors="replace").splitlines()[-lines:])
        return "(no log)"


def start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None if it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    gone = fields[0] in "ZX" and _let_go(pid)
    return None if gone else int(fields[19])


def _let_go(pid: int) -> bool:
    """Reap a zombie if it is a child of ours; False while some of its threads still end."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def spawn(
    name: str,
    argv: Sequence[str],
    *,
    folder: Path,
    cgroups: Iterable[Path] = (),
    env: Mapping[str, str] | None = None,
) -> Process:
    """Start a process in a session of its own, logging to `folder/logs/NAME.log`, and record it in the folder."""
    log = folder / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    groups = " ".join(map(str, cgroups))
    wrapper = ["/bin/sh", "-c", _JOIN_CGROUPS, "sh", groups] if groups else []
    command = [*wrapper, *argv]
    pid = os.posix_spawn(command[0], command, {**os.environ, **(env or {})}, file_actions=_streams(log), setsid=True)
    process = Process(name=name, pid=pid, started=start_time(pid) or 0, log=str(log))
    write_private(folder / "processes" / f"{name}.json", msgspec.json.encode(process))
    return process


def _streams(log: Path) -> list[tuple[int, int, str, int, int]]:
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o600),
        (os.POSIX_SPAWN_OPEN, 2, str(log), append, 0o600),
    ]


def recorded(folder: Path) -> list[Process]:
    """The processes recorded in a folder, dead ones too; unreadable records are left out."""
    found = []
    for record in sorted((folder / "processes").glob("*.json")):
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            found.append(msgspec.json.decode(record.read_bytes(), type=Process))
    return found


def stop(processes: Iterable[Process], *, grace_s: float = 0.0) -> None:
    """End the processes: SIGTERM and `grace_s` to obey it if that is positive, then SIGKILL."""
    waiting = [process for process in processes if process.alive]
    if grace_s > 0:
        waiting = _signal(waiting, signal.SIGTERM, grace_s)
    stuck = _signal(waiting, signal.SIGKILL, 10.0)
    if stuck:
        names = ", ".join(f"{process.name} (pid {process.pid})" for process in stuck)
        raise StartError(f"cannot end {names}", remedy="a process in uninterruptible sleep ends only with its I/O")


def _signal(processes: Sequence[Process], number: signal.Signals, wait_s: float) -> list[Process]:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
    deadline = time.monotonic() + wait_s
    left = list(processes)
    while (left := [process for process in left if process.alive]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left
