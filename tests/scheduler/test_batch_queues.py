"""Queues per model: order, buckets, splitting, cancelling (method B4)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.scheduler.queues import ModelQueue, QueuedRequest


def queue_of(*entries: QueuedRequest) -> ModelQueue:
    queue = ModelQueue(model="m", limit=1000)
    for entry in entries:
        queue.push(entry)
    return queue


def taken(queue: ModelQueue, rows: int, bucket: object = ()) -> list[tuple[int, int, int]]:
    return [(part.key, part.start, part.rows) for part in queue.take(bucket, rows, 0.0)]


def test_rows_are_taken_in_order_of_arrival_and_requests_are_split() -> None:
    queue = queue_of(QueuedRequest(key=1, rows=3, arrival=0), QueuedRequest(key=2, rows=4, arrival=1))
    assert taken(queue, 5) == [(1, 0, 3), (2, 0, 2)]
    assert taken(queue, 5) == [(2, 2, 2)]
    assert queue.rows == 0
    assert queue.next_bucket() is None


def test_a_lower_priority_number_goes_first_and_zero_is_the_middle() -> None:
    queue = queue_of(
        QueuedRequest(key=1, rows=1, arrival=0, priority=(1 << 31) + 1),
        QueuedRequest(key=2, rows=1, arrival=1),
        QueuedRequest(key=3, rows=1, arrival=2, priority=1),
    )
    assert [key for key, _, _ in taken(queue, 3)] == [3, 2, 1]


def test_the_bucket_with_the_oldest_head_is_next() -> None:
    queue = queue_of(
        QueuedRequest(key=1, rows=1, arrival=1, bucket="wide"),
        QueuedRequest(key=2, rows=9, arrival=2, bucket="narrow"),
        QueuedRequest(key=3, rows=1, arrival=0, bucket="late"),
    )
    assert queue.next_bucket() == "late"
    taken(queue, 1, "late")
    assert queue.next_bucket() == "wide"


def test_every_late_request_of_a_batch_is_found_whatever_stands_before_it() -> None:
    queue = queue_of(
        QueuedRequest(key=1, rows=2, arrival=0, drop_after=1.0),
        QueuedRequest(key=2, rows=1, arrival=1),
        QueuedRequest(key=3, rows=1, arrival=2, drop_after=9.0),
        QueuedRequest(key=4, rows=1, arrival=3, drop_after=1.5),
        QueuedRequest(key=5, rows=1, arrival=4, drop_after=1.75),
    )
    # 6 rows end at 2.4; without the first request's 4 do at 2.0, without the fourth's 3 do at 1.8.
    assert queue.late((), lambda rows: 1.2 + 0.2 * rows, cap=8) == [1, 4, 5]


def test_late_requests_beyond_the_batch_are_left_for_a_later_one() -> None:
    queue = queue_of(*(QueuedRequest(key=key, rows=1, arrival=key, drop_after=9.0) for key in (1, 2, 3)))
    queue.push(QueuedRequest(key=4, rows=1, arrival=4, drop_after=0.1))
    assert queue.late((), lambda _: 1.0, cap=3) == []
    assert queue.late((), lambda _: 1.0, cap=4) == [4]


def test_a_queue_without_deadlines_is_not_searched() -> None:
    queue = queue_of(QueuedRequest(key=1, rows=1, arrival=0, drop_after=1.0), QueuedRequest(key=2, rows=4, arrival=1))
    queue.remove(1)
    assert queue.groups[()].bounded == 0
    queue.push(QueuedRequest(key=3, rows=2, arrival=2, drop_after=1.0))
    taken(queue, 5)
    assert queue.groups[()].bounded == 1
    taken(queue, 5)
    assert queue.rows == 0


actions = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(1, 5), st.sampled_from("ab")),
        st.tuples(st.just("take"), st.integers(1, 6), st.sampled_from("ab")),
        st.tuples(st.just("remove"), st.integers(1, 30), st.just("")),
    ),
    max_size=80,
)


@given(actions)
def test_every_row_leaves_once_in_order_and_the_counts_hold(steps: list[tuple[str, int, str]]) -> None:
    queue = ModelQueue(model="m", limit=1 << 30)
    pushed: dict[int, tuple[int, str]] = {}
    out: list[tuple[int, int]] = []
    gone: set[int] = set()
    for at, (what, number, bucket) in enumerate(steps):
        if what == "push":
            key = len(pushed) + 1
            pushed[key] = (number, bucket)
            queue.push(QueuedRequest(key=key, rows=number, arrival=at, bucket=bucket))
        elif what == "take" and bucket in queue.groups:
            parts = queue.take(bucket, number, at)
            assert sum(part.rows for part in parts) <= number
            out += [(part.key, row) for part in parts for row in range(part.start, part.start + part.rows)]
        elif what == "remove" and queue.remove(number):
            gone.add(number)
        waiting = sum(number for number, _ in pushed.values()) - len(out)
        lost = sum(pushed[key][0] - sum(1 for taken_key, _ in out if taken_key == key) for key in gone)
        assert queue.rows == waiting - lost == sum(group.rows for group in queue.groups.values())
    assert len(out) == len(set(out))
    for bucket in "ab":
        mine = [key for key, _ in out if pushed[key][1] == bucket]
        assert mine == sorted(mine)


def test_an_empty_queue_takes_a_request_of_any_size() -> None:
    queue = ModelQueue(model="m", limit=4)
    assert queue.has_room(100)
    queue.push(QueuedRequest(key=1, rows=3, arrival=0))
    assert queue.has_room(1)
    assert not queue.has_room(2)
