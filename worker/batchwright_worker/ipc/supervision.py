"""What a sidecar can ask of a runtime's supervisor: to end the process that hangs. One datagram per request.

The process itself cannot be asked: it may be stuck in C code. A datagram and no connection, because nothing that a
sidecar does (or fails to do) may keep the supervisor waiting.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Final

_MOST_BYTES: Final = 1024


def supervision_socket(runtime_socket: Path) -> Path:
    """Where the supervisor of this runtime listens."""
    return runtime_socket.with_suffix(".supervisor")


def listen_for_requests(runtime_socket: Path) -> socket.socket:
    """The supervisor's socket, which never blocks; one that a dead predecessor left is replaced."""
    path = supervision_socket(runtime_socket)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    listener.bind(str(path))
    path.chmod(0o660)
    return listener


def end_runtime(runtime_socket: Path, pid: int, why: str) -> None:
    """Ask for the end of the process `pid`, or with 0 of the one that serves. Raises OSError if nobody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        sender.sendto(f"end {pid} {why}".encode(errors="backslashreplace"), str(supervision_socket(runtime_socket)))


def received_request(listener: socket.socket) -> tuple[int, str] | None:
    """The next request as `end_runtime` has it; None if there is none, or none that can be read."""
    with contextlib.suppress(OSError, ValueError):
        verb, pid, why = listener.recv(_MOST_BYTES).decode(errors="replace").split(" ", 2)
        if verb == "end":
            return int(pid), why
    return None
