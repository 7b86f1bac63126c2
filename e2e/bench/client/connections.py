"""A lean HTTP/1.1 client: kept connections, one request in flight on each, one thread that reads all answers.

Whoever wants to send calls `send` from any thread: one system call where an idle connection is at hand. A request that
finds none and may open no more waits for one. Nothing but status, content-length and the body's end is looked at.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from e2e.bench.client.wire import Sample

LOST: Final = -1
"""The connection broke twice."""
GIVEN_UP: Final = -2
"""No answer when the test was over."""
WRONG: Final = -3
"""Status 200 and another answer than the right one."""

Done = Callable[[int, int], None]
"""Called on the reading thread with the request's number and its HTTP status (or one of the above)."""

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE: Final = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class _Connection:
    """`number` -1: idle. `unsent` and `unread` are non-empty only where one system call did not do."""

    __slots__ = ("number", "retried", "sample", "sock", "unread", "unsent")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.number = -1
        self.sample: Sample | None = None
        self.retried = False
        self.unread = b""
        self.unsent = memoryview(b"")


class Client:
    """`opened` connections at once, `limit` at most."""

    def __init__(self, address: tuple[str, int], done: Done, *, opened: int, limit: int) -> None:
        self._address = address
        self._done = done
        self._limit = limit
        self._poll = select.epoll()
        self._by_fd: dict[int, _Connection] = {}
        self._idle: deque[_Connection] = deque()
        self._waiting: deque[tuple[int, Sample]] = deque()
        self._lock = threading.Lock()
        self._closing = False
        self._give_up_at = float("inf")
        self._thread = threading.Thread(target=self._read, name="answers")
        self._idle.extend(self._open() for _ in range(opened))

    def start(self) -> None:
        """Begin to read answers."""
        self._thread.start()

    def send(self, number: int, sample: Sample) -> None:
        """One request; `done` will be called for it exactly once."""
        try:
            connection = self._idle.popleft()
        except IndexError:
            with self._lock:
                room = len(self._by_fd) < self._limit
                if not room:
                    self._waiting.append((number, sample))
            if not room:
                return
            connection = self._open()
        self._send_on(connection, number, sample)

    def give_up(self, after_s: float) -> None:
        """What has no answer by then gets none."""
        self._give_up_at = time.monotonic() + after_s

    def close(self) -> None:
        """Stop reading and close all connections; call when every request is done."""
        self._closing = True
        self._thread.join()
        for connection in self._by_fd.values():
            connection.sock.close()
        self._poll.close()

    # --- sending ----------------------------------------------------------------------------------

    def _open(self) -> _Connection:
        sock = socket.create_connection(self._address, timeout=5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
        sock.setblocking(False)
        connection = _Connection(sock)
        self._by_fd[sock.fileno()] = connection
        self._poll.register(sock.fileno(), select.EPOLLIN)
        return connection

    def _send_on(self, connection: _Connection, number: int, sample: Sample) -> None:
        connection.number, connection.sample, connection.retried = number, sample, False
        self._write(connection, memoryview(sample.request))

    def _write(self, connection: _Connection, data: memoryview) -> None:
        try:
            sent = connection.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._broken(connection)
            return
        if sent < len(data):
            connection.unsent = data[sent:]
            with contextlib.suppress(OSError):
                self._poll.modify(connection.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    # --- reading ----------------------------------------------------------------------------------

    def _read(self) -> None:
        while not self._closing:
            for fd, event in self._poll.poll(0.1):
                connection = self._by_fd.get(fd)
                if connection is None:
                    continue  # dropped while its events were on their way
                if event & select.EPOLLOUT and connection.unsent:
                    data, connection.unsent = connection.unsent, memoryview(b"")
                    self._poll.modify(fd, select.EPOLLIN)
                    self._write(connection, data)
                if event & ~select.EPOLLOUT:
                    self._receive(connection)
            if time.monotonic() > self._give_up_at:
                self._abandon()

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._broken(connection)
            return
        if connection.unread:
            data = connection.unread + data
        status = _status(data, connection.sample)
        if status == 0:
            connection.unread = data
            return
        connection.unread = b""
        number, connection.number = connection.number, -1
        if status >= 400 and _CLOSE.search(data):
            self._drop(connection)
            connection = self._open()
        self._release(connection)
        self._done(number, status)

    def _release(self, connection: _Connection) -> None:
        """The next one that waits goes first."""
        with self._lock:
            waiting = self._waiting.popleft() if self._waiting else None
        if waiting is None:
            self._idle.append(connection)
        else:
            self._send_on(connection, *waiting)

    def _broken(self, connection: _Connection) -> None:
        """Servers close kept connections when they like: a request that met one is sent once more. Both threads may
        find the same connection broken; one of them gets to act."""
        with self._lock:
            number, connection.number = connection.number, -1
            self._drop(connection)
        if number < 0 or connection.sample is None:
            return
        try:
            fresh = self._open()
        except OSError:
            self._done(number, LOST)
            return
        if connection.retried:
            self._release(fresh)
            self._done(number, LOST)
            return
        fresh.number, fresh.sample, fresh.retried = number, connection.sample, True
        self._write(fresh, memoryview(connection.sample.request))

    def _drop(self, connection: _Connection) -> None:
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)
        self._by_fd.pop(connection.sock.fileno(), None)
        connection.sock.close()

    def _abandon(self) -> None:
        self._give_up_at = float("inf")
        with self._lock:
            lost = [number for number, _ in self._waiting]
            self._waiting.clear()
        busy = [connection for connection in self._by_fd.values() if connection.number >= 0]
        for connection in busy:
            lost.append(connection.number)
            connection.number = -1
            self._drop(connection)
        for number in lost:
            self._done(number, GIVEN_UP)


def _status(data: bytes, sample: Sample | None) -> int:
    """0: not all of the answer is there."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return 0
    found = _LENGTH.search(data, 0, end)
    if found is None:
        raise ValueError(f"an answer without content-length: {data[:end]!r}")
    if len(data) < end + 4 + int(found[1]):
        return 0
    status = int(data[9:12])
    if status == 200 and sample is not None and not data.endswith(sample.answer):
        return WRONG
    return status
