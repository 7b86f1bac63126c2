"""The supervisor, first process of a runtime container: keeps the socket, forks the runtime again when it dies.

It imports nothing heavy and has no threads, so forking it is safe at any time. A container restart would meet
kubelet's back-off; this takes a fork. A spare process that has imported the libraries already (they start threads of
their own, so they cannot be imported before the fork) waits behind the serving one, from its first loaded model on.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from batchwright_worker.host.process import die_with_parent
from batchwright_worker.host.threads import pin_libraries
from batchwright_worker.ipc.supervision import received_request

_LOG = logging.getLogger(__name__)
_FIRST_PAUSE_S: Final = 0.01
_LONGEST_PAUSE_S: Final = 5.0
_SETTLED_S: Final = 10.0
"""A process that lived this long, or has loaded a model, resets the pause before its successor: what kills it then, the
sidecar finds out."""
SERVING: Final = b"s"
LOADED: Final = b"+"
"""What a process that serves says of itself."""
_STOP_S: Final = 25.0
"""How long a batch that runs may take to end after SIGTERM."""


@dataclass(slots=True, kw_only=True)
class _Child:
    pid: int
    promote: int
    """Writing to this pipe makes a spare serve."""
    since: float
    is_serving: bool = False
    """Has it imported its libraries and begun to accept its sidecar?"""


def listen(path: Path) -> socket.socket:
    """The runtime's socket; one that a dead predecessor left is replaced."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o660)
    listener.listen(8)
    return listener


class Supervisor:
    """`serve` ("module:function" of a listener and the pipe that takes SERVING and LOADED) runs in the child, after the
    imports of `libraries`. `requests` is the socket of `ipc/supervision`: the sidecar asks for the end of a process
    that hangs."""

    def __init__(self, listener: socket.socket, requests: socket.socket, serve: str, libraries: Sequence[str]) -> None:
        self._listener = listener
        self._requests = requests
        self._serve = serve
        self._libraries = libraries
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._loaded_read, self._loaded_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._active: _Child | None = None
        self._spare: _Child | None = None
        self._pause_s = 0.0
        self._has_loaded = False
        self._stopping = False

    def run(self) -> int:
        """Until SIGTERM or SIGINT; the exit status."""
        pin_libraries()
        signal.set_wakeup_fd(self._wake_write)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._promote()
        while not self._stopping:
            asked = self._requests.fileno()
            readable, _, _ = select.select([self._wake_read, self._loaded_read, asked], [], [])
            self._drain(readable)
            if asked in readable:
                self._end_as_requested()
            self._reap()
        self._end()
        return 0

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _drain(self, readable: Sequence[int]) -> None:
        if self._wake_read in readable:
            _read(self._wake_read)
        if self._loaded_read in readable:
            said = _read(self._loaded_read)
            if SERVING in said and self._active is not None:
                self._active.is_serving = True
            if LOADED in said:
                self._has_loaded = True
                if self._spare is None and not self._stopping:
                    self._spare = self._fork()

    def _end_as_requested(self) -> None:
        """Only the process that serves now: the one that was meant may have died by itself meanwhile."""
        active, request = self._active, received_request(self._requests)
        if request is None or active is None:
            return
        pid, why = request
        if pid == active.pid or (pid == 0 and active.is_serving):
            _LOG.warning("runtime %d hangs and is killed: %s", active.pid, why)
            os.kill(active.pid, signal.SIGKILL)

    def _reap(self) -> None:
        """Collect every dead child; a dead server is succeeded at once, a dead spare with the next loaded model."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._spare is not None and pid == self._spare.pid:
                os.close(self._spare.promote)
                self._spare = None
            elif self._active is not None and pid == self._active.pid:
                self._succeed(self._active, os.waitstatus_to_exitcode(status))

    def _succeed(self, dead: _Child, code: int) -> None:
        os.close(dead.promote)
        self._active = None
        self._drain([self._loaded_read])  # what the dead one said is not said of its successor
        if self._stopping:
            return
        lived = time.monotonic() - dead.since
        settled, self._has_loaded = lived > _SETTLED_S or self._has_loaded, False
        self._pause_s = 0.0 if settled else min(_LONGEST_PAUSE_S, max(_FIRST_PAUSE_S, self._pause_s * 2))
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        _LOG.warning("runtime %d %s after %.1f s; the next one serves in %.2f s", dead.pid, how, lived, self._pause_s)
        if self._pause_s > _FIRST_PAUSE_S:
            select.select([self._wake_read], [], [], self._pause_s)
        if not self._stopping:
            self._promote()

    def _promote(self) -> None:
        child = self._spare or self._fork()
        self._spare = None
        with contextlib.suppress(BrokenPipeError):
            os.write(child.promote, b"!")
        self._active = _Child(pid=child.pid, promote=child.promote, since=time.monotonic())

    def _fork(self) -> _Child:
        read_end, write_end = os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(write_end)
            self._child(parent, read_end)
        os.close(read_end)
        return _Child(pid=pid, promote=write_end, since=time.monotonic())

    def _child(self, parent: int, promoted: int) -> None:
        """Never returns. Ends with os._exit: destructors of libraries must not keep a dying process."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            self._requests.close()
            die_with_parent(parent)
            module, _, name = self._serve.partition(":")
            for library in (*self._libraries, module):
                importlib.import_module(library)
            if os.read(promoted, 1):
                serve: Callable[[socket.socket, int], None] = getattr(sys.modules[module], name)
                serve(self._listener, self._loaded_write)
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 0
        except BaseException:
            _LOG.exception("the runtime process failed")
        finally:
            logging.shutdown()
            os._exit(status)

    def _end(self) -> None:
        """SIGTERM to the server, which ends its batch; then whatever is left is killed."""
        if self._spare is not None:
            os.kill(self._spare.pid, signal.SIGKILL)
        if self._active is not None:
            os.kill(self._active.pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        while self._active is not None and (rest := deadline - time.monotonic()) > 0:
            self._reap()
            if self._active is not None:
                readable, _, _ = select.select([self._wake_read], [], [], rest)
                self._drain(readable)
        if self._active is not None:
            os.kill(self._active.pid, signal.SIGKILL)


def _read(pipe: int) -> bytes:
    """What is in the pipe; nothing if that is nothing."""
    with contextlib.suppress(BlockingIOError):
        return os.read(pipe, 4096)
    return b""
