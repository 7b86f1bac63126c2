"""A server beside a shell, for pages whose reader may have none: started, waited for, and ended by two commands."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_START_S = 60.0
_LONGEST = "3600"
"""Seconds: it ends by itself where nobody ends it."""


class NotStarted(Exception):  # noqa: N818
    """The server ended, or does not listen."""


def up(command: Sequence[str], port: int) -> None:
    """Returns when it listens on the port of the loopback. Raises NotStarted."""
    path = _pid_file(port)
    path.parent.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        ["timeout", _LONGEST, *command],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    path.write_text(str(process.pid))
    until = time.monotonic() + _START_S
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    down(port)
    raise NotStarted(f"no server on port {port} (exit status {process.poll()})")


def down(port: int) -> None:
    """Ends the one that `up` has started from this folder on this port, if it is there."""
    path = _pid_file(port)
    with suppress(FileNotFoundError, ProcessLookupError, ValueError):
        os.killpg(int(path.read_text()), signal.SIGTERM)
    path.unlink(missing_ok=True)


def _pid_file(port: int) -> Path:
    return Path("build") / f"server-{port}.pid"
