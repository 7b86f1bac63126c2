"""What requests hold is counted, bounded, and given back, however they come and go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.inference.errors import QueueFull
from batchwright_worker.protocol.http.heads import HeadCache
from batchwright_worker.protocol.http.messages import HttpError, HttpRequest
from batchwright_worker.protocol.http.receive_buffers import BUFFER_BYTES, ReceiveBuffers
from batchwright_worker.protocol.http.request_reader import RequestReader
from batchwright_worker.protocol.limits import Limits
from batchwright_worker.protocol.request_memory import RequestMemory
from tests.protocol.test_request_reader import Nobody, chunked, post, put

MIB = 1 << 20


def reader(memory: RequestMemory) -> RequestReader:
    return RequestReader(HeadCache(), Limits(body_bytes=4 * MIB), ReceiveBuffers(memory, BUFFER_BYTES + 4))


def feed(reading: RequestReader, data: bytes) -> list[HttpRequest]:
    """The requests that are whole, each answered before the next."""
    seen = []
    while data:
        data = data[put(reading, data) :]
        while isinstance(request := reading.next_request(Nobody()), HttpRequest):
            seen.append(request)
            reading.release()
    return seen


def test_a_body_that_does_not_fit_is_refused_at_its_announcement() -> None:
    memory = RequestMemory(MIB)
    first, second = reader(memory), reader(memory)
    assert feed(first, post("/", b"x" * 700_000)[:1000]) == []
    assert memory.held_bytes == memory.receiving_bytes == 700_000
    with pytest.raises(QueueFull, match="requestMemoryBytes allows"):
        feed(second, post("/", b"x" * 400_000)[:1000])
    assert memory.refused == 1
    first.clear()
    second.clear()
    assert (memory.held_bytes, memory.receiving_bytes) == (0, 0)


def test_a_chunked_body_is_refused_as_soon_as_it_passes() -> None:
    memory = RequestMemory(MIB)
    reading = reader(memory)
    with pytest.raises(QueueFull):
        feed(reading, chunked("/", *[b"x" * 30_000] * 60))
    assert memory.held_bytes <= MIB + 2 * BUFFER_BYTES
    reading.clear()
    assert (memory.held_bytes, memory.receiving_bytes) == (0, 0)


def test_slow_bodies_leave_half_of_the_memory_to_those_that_have_arrived() -> None:
    memory = RequestMemory(MIB)
    slow = [reader(memory) for _ in range(6)]
    refused = 0
    for each in slow:
        try:
            feed(each, post("/", b"x" * 100_000)[:200])
        except QueueFull:
            refused += 1
    assert refused == 1
    assert memory.receiving_bytes == 500_000


def test_one_body_alone_may_arrive_however_large_its_share_is() -> None:
    assert len(feed(reader(RequestMemory(MIB)), post("/", b"x" * 900_000))) == 1


def test_idle_and_waiting_connections_have_no_buffer() -> None:
    memory = RequestMemory()
    readers = [reader(memory) for _ in range(100)]
    for each in readers:
        put(each, post("/", b"x" * 100))
        assert isinstance(each.next_request(Nobody()), HttpRequest)
    assert memory.held_bytes == 100 * 100
    for each in readers:
        each.release()
    assert memory.held_bytes == 0


@given(
    st.lists(st.tuples(st.integers(0, 200_000), st.booleans()), max_size=6),
    st.lists(st.integers(1, 120_000), max_size=6),
    st.integers(100_000, 500_000),
    st.booleans(),
)
def test_everything_is_given_back_however_it_ends(
    bodies: list[tuple[int, bool]], cuts: list[int], limit: int, leaves: bool
) -> None:
    memory = RequestMemory(limit)
    stream = b"".join(chunked("/", b"x" * size) if many and size else post("/", b"x" * size) for size, many in bodies)
    reading, at = reader(memory), 0
    try:
        for cut in [*cuts, len(stream)]:
            feed(reading, stream[at : at + cut])
            at += cut
            assert 0 <= memory.receiving_bytes <= memory.held_bytes <= limit + 2 * BUFFER_BYTES
    except QueueFull:
        leaves = True
    if leaves:
        reading.clear()
    if leaves or at >= len(stream):
        assert (memory.held_bytes, memory.receiving_bytes) == (0, 0)


def test_a_bad_request_gives_its_memory_back() -> None:
    memory = RequestMemory()
    reading = reader(memory)
    with pytest.raises(HttpError):
        feed(reading, b"GARBAGE\r\n\r\n")
    reading.clear()
    assert memory.held_bytes == 0
