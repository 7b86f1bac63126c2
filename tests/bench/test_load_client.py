"""The bench's client: every request is done exactly once, whatever the server does."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from e2e.bench.client.connections import GIVEN_UP, LOST, WRONG, Client
from e2e.bench.client.wire import Sample, argmax_answer, request_of, rows_of

SHAPE = (2, 3)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n"
Behaviour = Callable[[int, socket.socket, bytes], bool]
"""(number of this request, connection, its body) -> keep the connection."""


class Server:
    """Reads requests and does with each what the behaviour says."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._count = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        data = b""
        while True:
            try:
                piece = connection.recv(1 << 16)
            except OSError:
                return
            if not piece:
                return
            data += piece
            head, found, body = data.partition(b"\r\n\r\n")
            length = int(head.rpartition(b"content-length: ")[2] or 0)
            if not found or len(body) < length:
                continue
            data = b""
            with self._lock:
                self._count += 1
                number = self._count
            if not self._behaviour(number, connection, body):
                connection.close()
                return


@pytest.fixture
def outcomes() -> Iterator[Callable[..., Counter[int]]]:
    """Sends so many requests to a server of this behaviour; how many ended with which status."""
    servers: list[Server] = []

    def of(
        behaviour: Behaviour, count: int = 40, *, opened: int = 4, limit: int = 8, patience_s: float = 60
    ) -> Counter[int]:
        server = Server(behaviour)
        servers.append(server)
        done: list[tuple[int, int]] = []
        everything = threading.Event()

        def one(number: int, status: int) -> None:
            done.append((number, status))
            if len(done) == count:
                everything.set()

        client = Client(server.address, one, opened=opened, limit=limit)
        client.start()
        row = rows_of(1, SHAPE, 1)[0]
        sample = Sample(request=request_of("plain", row, SHAPE), answer=argmax_answer(row))
        for number in range(count):
            client.send(number, sample)
        client.give_up(patience_s)
        assert everything.wait(60)
        client.close()
        assert sorted(number for number, _ in done) == list(range(count))
        return Counter(status for _, status in done)

    yield of
    for server in servers:
        server.close()


def right(_number: int, connection: socket.socket, body: bytes) -> bool:
    connection.sendall(OK + argmax_answer(body))
    return True


def test_more_requests_than_connections_are_all_answered(outcomes: Callable[..., Counter[int]]) -> None:
    assert outcomes(right) == {200: 40}


def test_answers_in_pieces_are_put_together(outcomes: Callable[..., Counter[int]]) -> None:
    def slowly(_number: int, connection: socket.socket, body: bytes) -> bool:
        whole = OK + argmax_answer(body)
        for start in range(0, len(whole), 7):
            connection.sendall(whole[start : start + 7])
            time.sleep(0.0005)
        return True

    assert outcomes(slowly, 10) == {200: 10}


def test_wrong_answers_and_refusals_are_told_apart(outcomes: Callable[..., Counter[int]]) -> None:
    def mixed(number: int, connection: socket.socket, body: bytes) -> bool:
        if number % 4 == 1:
            connection.sendall(OK + b"\xff" * 8)
        elif number % 4 == 2:
            connection.sendall(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
        else:
            return right(number, connection, body)
        return True

    assert outcomes(mixed) == {200: 20, WRONG: 10, 503: 10}


def test_a_request_that_meets_a_closed_connection_is_sent_once_more(outcomes: Callable[..., Counter[int]]) -> None:
    def closing(number: int, connection: socket.socket, body: bytes) -> bool:
        return number % 10 != 1 and right(number, connection, body)

    assert outcomes(closing, 20, limit=1, opened=1) == {200: 20}


def test_a_server_that_always_hangs_up_loses_them(outcomes: Callable[..., Counter[int]]) -> None:
    assert outcomes(lambda *_: False, 10) == {LOST: 10}


def test_what_is_never_answered_is_given_up(outcomes: Callable[..., Counter[int]]) -> None:
    assert outcomes(lambda *_: True, 20, patience_s=0.3) == {GIVEN_UP: 20}
