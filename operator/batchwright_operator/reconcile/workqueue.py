"""The work queue: which key to reconcile next. A key waits at most once and is never with two workers.

`Schedule` is the pure state, with time as an argument; `WorkQueue` adds the waiting.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from batchwright_operator.reconcile.decisions import Key

FIRST_DELAY_S = 0.005
LAST_DELAY_S = 120.0
CHANGE_DELAY_S = 1.0
"""A change that concerns a key that has just failed requeues it no earlier than this, however many changes there are:
else an object that changes all the time would be tried all the time."""
RESTING_MAX = 2000


def backoff_s(failures: int, jitter: float, *, first_s: float = FIRST_DELAY_S, last_s: float = LAST_DELAY_S) -> float:
    """Delay after this many failures in a row (>= 1): doubles from `first_s` to `last_s`, times 0.5 + jitter / 2,
    jitter in [0, 1)."""
    return float(min(last_s, first_s * 2 ** min(failures - 1, 40))) * (0.5 + jitter / 2)


@dataclass(slots=True)
class Schedule:
    """Ready keys in order of arrival, keys that wait for a time, keys in work. Times are of one monotonic clock."""

    rng: Random = field(default_factory=Random)
    _ready: deque[Key] = field(default_factory=deque)
    _waiting: set[Key] = field(default_factory=set)
    _due: dict[Key, float] = field(default_factory=dict)
    _heap: list[tuple[float, Key]] = field(default_factory=list)
    _working: set[Key] = field(default_factory=set)
    _again: set[Key] = field(default_factory=set)
    _failures: dict[Key, int] = field(default_factory=dict)
    _not_before: dict[Key, float] = field(default_factory=dict)

    def add(self, key: Key, at: float, now: float) -> None:
        """Reconcile the key at `at`; an earlier due time stays, a later one is replaced."""
        at = max(at, self._not_before.get(key, at))
        if at > now:
            if key not in self._waiting and key not in self._again and at < self._due.get(key, float("inf")):
                self._due[key] = at
                heapq.heappush(self._heap, (at, key))
            return
        self._due.pop(key, None)
        if key in self._working:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.append(key)

    def take(self, now: float) -> Key | None:
        """The next key, from now on in work; None when there is none yet."""
        self._promote(now)
        if not self._ready:
            return None
        key = self._ready.popleft()
        self._waiting.discard(key)
        self._not_before.pop(key, None)  # it is over, or the key would not be ready
        self._working.add(key)
        return key

    def done(self, key: Key, now: float) -> None:
        """The worker is through with it; a key that was added meanwhile is ready again."""
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key, now, now)

    def failed(self, key: Key, now: float, at_most_s: float = LAST_DELAY_S) -> float:
        """Try again after a delay that grows with every failure in a row; returns the delay in seconds.
        What changed during the failed pass waits for the delay too; a later change shortens it to CHANGE_DELAY_S."""
        self._failures[key] = self._failures.get(key, 0) + 1
        delay = backoff_s(self._failures[key], self.rng.random(), last_s=at_most_s)
        self._again.discard(key)
        self._due.pop(key, None)
        self._not_before[key] = now + min(delay, CHANGE_DELAY_S)
        self.add(key, now + delay, now)
        return delay

    def succeeded(self, key: Key) -> None:
        """The next failure counts as the first."""
        self._failures.pop(key, None)

    def rest(self, key: Key, until: float, now: float) -> None:
        """Do not give this key out again before then."""
        if len(self._not_before) > RESTING_MAX:  # of keys that do not come again
            self._not_before = {each: at for each, at in self._not_before.items() if at > now}
        self._not_before[key] = max(until, self._not_before.get(key, until))

    def next_at(self) -> float | None:
        """When the next delayed key is due."""
        # Entries whose key got another due time since, or none, are dropped here rather than searched for in the heap.
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def clear(self) -> None:
        """Forget every key that waits; keys in work stay in work."""
        self._ready.clear()
        self._waiting.clear()
        self._due.clear()
        self._heap.clear()
        self._again.clear()
        self._failures.clear()
        self._not_before.clear()

    @property
    def depth(self) -> int:
        """Keys that are ready."""
        return len(self._ready)

    @property
    def is_idle(self) -> bool:
        """No key is ready or in work."""
        return not self._ready and not self._working

    @property
    def in_work(self) -> int:
        """Keys with a worker."""
        return len(self._working)

    def _promote(self, now: float) -> None:
        while (at := self.next_at()) is not None and at <= now:
            key = heapq.heappop(self._heap)[1]
            del self._due[key]  # else a key that must rest for longer would count as one that has its time
            self.add(key, now, now)


class WorkQueue:
    """The schedule on an event loop. Implements `Queue` of `reconcile/interfaces`."""

    def __init__(self, clock: Callable[[], float], schedule: Schedule | None = None) -> None:
        self._clock = clock
        self.schedule = schedule or Schedule()
        self._changed = asyncio.Event()
        self._waiting = asyncio.Lock()
        """Held by the worker that is next: a change wakes one of them, not all."""

    def add(self, key: Key, *, after_s: float = 0.0) -> None:
        """Reconcile this key (again), at the earliest after `after_s`; one that waits already stays."""
        now = self._clock()
        self.schedule.add(key, now + after_s, now)
        self._changed.set()

    async def get(self) -> Key:
        """The next key; waits for one."""
        async with self._waiting:
            while (key := self.schedule.take(self._clock())) is None:
                self._changed.clear()
                due = self.schedule.next_at()
                try:
                    async with asyncio.timeout(None if due is None else max(0.0, due - self._clock())):
                        await self._changed.wait()
                except TimeoutError:
                    continue
            return key

    def done(self, key: Key) -> None:
        """Ends the work on a key that `get` gave."""
        self.schedule.done(key, self._clock())
        self._changed.set()  # it may be ready again, or due before what the next worker waits for

    def failed(self, key: Key, *, at_most_s: float = LAST_DELAY_S) -> float:
        """Schedules the key again after its back-off, which it returns; call `done` too."""
        delay = self.schedule.failed(key, self._clock(), at_most_s)
        self._changed.set()  # the worker that waits knows of no time as early as this
        return delay

    def rest(self, key: Key, for_s: float) -> None:
        """Keeps the key from being given out again for so long, counted from now."""
        now = self._clock()
        self.schedule.rest(key, now + for_s, now)

    def succeeded(self, key: Key) -> None:
        """Resets the key's back-off."""
        self.schedule.succeeded(key)
