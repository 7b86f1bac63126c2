"""What processes hold: private memory, open files, threads, shared memory slots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process. `private_bytes`: resident and its own (no shared memory, no files)."""

    pid: int
    private_bytes: int
    files: int
    threads: int


def usage(pid: int) -> Usage:
    """Now."""
    process = psutil.Process(pid)
    status = Path(f"/proc/{pid}/status").read_text()
    private = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:"))
    return Usage(pid=pid, private_bytes=private << 10, files=process.num_fds(), threads=process.num_threads())


def family(pid: int) -> Mapping[str, int]:
    """Process ids of `serve`'s or a test's children by role: sidecar, supervisor, runtime (the one that serves)."""
    roles: dict[str, int] = {}
    for child in psutil.Process(pid).children():
        command = child.cmdline()
        if "sidecar" in command:
            roles["sidecar"] = child.pid
        elif "runtime" in command:
            roles["supervisor"] = child.pid
            roles["runtime"] = serving_child(child.pid)
    return roles


def serving_child(supervisor: int) -> int:
    """The child that has a sidecar's connection; a spare has none."""
    children = psutil.Process(supervisor).children()
    connected = [child for child in children if len(child.net_connections(kind="unix")) > 1]
    return (connected or children)[0].pid


def slots(folder: Path) -> Mapping[str, int]:
    """Shared memory files below a folder and their sizes."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("slot-*") if path.is_file()}


def connected(pid: int) -> int:
    """TCP connections that this process has not closed."""
    return sum(each.status != psutil.CONN_LISTEN for each in psutil.Process(pid).net_connections(kind="tcp"))
