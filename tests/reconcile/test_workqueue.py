"""The work queue: a key waits once, is never with two workers, and comes back after its back-off."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from batchwright_operator.reconcile.decisions import Key
from batchwright_operator.reconcile.workqueue import (
    CHANGE_DELAY_S,
    FIRST_DELAY_S,
    LAST_DELAY_S,
    Schedule,
    WorkQueue,
    backoff_s,
)

A, B, C = (Key(reconciler="d", name=name) for name in "abc")
keys = st.sampled_from([A, B, C])


class QueueMachine(RuleBasedStateMachine):
    """Any order of adds, takes, ends and failures, against what was promised."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.schedule = Schedule(rng=Random(1))
        self.working: set[Key] = set()
        self.owed: dict[Key, float] = {}  # key -> by when it must be ready or in work
        self.floor: dict[Key, float] = {}  # key -> not before, after a failure

    @rule(key=keys, after=st.sampled_from([0.0, 0.0, 1.0, 5.0]))
    def add(self, key: Key, after: float) -> None:
        self.schedule.add(key, self.now + after, self.now)
        at = max(self.now + after, self.floor.get(key, 0.0))
        self.owed[key] = min(self.owed.get(key, float("inf")), at)

    @rule()
    def take(self) -> None:
        key = self.schedule.take(self.now)
        if key is None:
            assert not [one for one, by in self.owed.items() if by <= self.now and one not in self.working]
            return
        assert key not in self.working, "two workers on one key"
        assert key in self.owed, "a key that nobody added"
        assert self.floor.get(key, 0.0) <= self.now, "too soon after its failure"
        self.working.add(key)
        del self.owed[key]

    @precondition(lambda self: self.working)
    @rule(data=st.data(), fails=st.booleans())
    def end(self, data: st.DataObject, fails: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.working)))
        if fails:
            delay = self.schedule.failed(key, self.now)
            self.owed[key] = self.now + delay
            self.floor[key] = self.now + min(delay, CHANGE_DELAY_S)
        else:
            self.schedule.succeeded(key)
            self.floor.pop(key, None)
        self.schedule.done(key, self.now)
        self.working.discard(key)

    @rule(seconds=st.sampled_from([0.5, 2.0, 200.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def wakes_in_time(self) -> None:
        future = [by for key, by in self.owed.items() if by > self.now and key not in self.working]
        due = self.schedule.next_at()
        assert not future or due is not None
        assert not future or self.schedule.depth or due <= min(future)  # type: ignore[operator]


TestQueue = QueueMachine.TestCase


@given(failures=st.integers(1, 1000), jitter=st.floats(0, 1, exclude_max=True))
def test_backoff_doubles_within_its_bounds(failures: int, jitter: float) -> None:
    delay = backoff_s(failures, jitter)
    assert FIRST_DELAY_S / 2 <= delay <= LAST_DELAY_S
    assert backoff_s(failures + 1, jitter) >= delay


def test_success_resets_the_backoff() -> None:
    schedule = Schedule(rng=Random(1))
    late = [schedule.failed(A, 0.0) for _ in range(12)][-1]
    schedule.succeeded(A)
    assert schedule.failed(A, 0.0) < late / 100


def test_keys_come_in_the_order_of_their_adds() -> None:
    schedule = Schedule()
    for key in (B, A, B, C):
        schedule.add(key, 0.0, 0.0)
    assert [schedule.take(0.0) for _ in range(4)] == [B, A, C, None]


def test_an_earlier_due_time_stays() -> None:
    schedule = Schedule()
    schedule.add(A, 2.0, 0.0)
    schedule.add(A, 5.0, 0.0)
    assert (schedule.next_at(), schedule.take(1.9), schedule.take(2.0)) == (2.0, None, A)
    schedule.done(A, 2.0)
    assert schedule.take(10.0) is None, "the later due time is not kept as well"


def test_a_change_requeues_a_failing_key_soon_but_not_at_once() -> None:
    schedule = Schedule(rng=Random(1))
    assert [schedule.failed(A, 0.0) for _ in range(15)][-1] > 10
    for at in (0.1, 0.2, 0.3):
        schedule.add(A, at, at)
        assert schedule.take(at) is None
    assert schedule.take(CHANGE_DELAY_S) == A


def test_clear_forgets_what_waits_but_not_what_is_in_work() -> None:
    schedule = Schedule()
    for key in (A, B):
        schedule.add(key, 0.0, 0.0)
    assert schedule.take(0.0) == A
    schedule.clear()
    schedule.add(A, 0.0, 0.0)
    assert schedule.take(0.0) is None, "A is still with its worker"
    schedule.done(A, 0.0)
    assert schedule.take(0.0) == A


async def test_get_returns_for_an_add_and_for_a_due_time() -> None:
    queue = WorkQueue(asyncio.get_running_loop().time)
    waiting = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    queue.add(A)
    assert await waiting == A
    queue.add(B, after_s=0.01)
    assert await queue.get() == B


@pytest.mark.parametrize("workers", [1, 4])
async def test_every_add_is_followed_by_a_pass_that_began_after_it(workers: int) -> None:
    queue = WorkQueue(asyncio.get_running_loop().time)
    version = dict.fromkeys((A, B, C), 0)
    seen: dict[Key, int] = {}

    async def work() -> None:
        while True:
            key = await queue.get()
            found = version[key]
            await asyncio.sleep(0)
            seen[key] = found
            queue.done(key)

    tasks = [asyncio.ensure_future(work()) for _ in range(workers)]
    rng = Random(7)
    for _ in range(300):
        key = rng.choice((A, B, C))
        version[key] += 1
        queue.add(key)
        if rng.random() < 0.3:
            await asyncio.sleep(0)
    while queue.schedule.depth or queue.schedule.in_work:  # noqa: ASYNC110 - a turn of the loop, not a time
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    assert seen == version


async def test_a_worker_that_waits_already_takes_what_another_one_failed() -> None:
    queue = WorkQueue(asyncio.get_running_loop().time)
    queue.add(A)
    key = await queue.get()
    waiting = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0.01)  # it waits, and knows of nothing that is due
    queue.failed(key)
    queue.done(key)
    assert await asyncio.wait_for(waiting, 60) == A


async def test_a_worker_that_waits_already_takes_what_rests_when_its_time_has_come() -> None:
    queue = WorkQueue(asyncio.get_running_loop().time)
    queue.add(A)
    key = await queue.get()
    queue.add(A)  # changed meanwhile
    waiting = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0.01)
    queue.rest(key, 0.05)
    queue.done(key)
    assert await asyncio.wait_for(waiting, 60) == A


def test_a_key_that_is_due_while_it_rests_comes_when_it_has_rested() -> None:
    schedule = Schedule()
    schedule.add(A, 1.0, 0.0)
    schedule.rest(A, 3.0, 0.0)
    assert schedule.take(1.0) is None
    assert schedule.take(3.0) == A
