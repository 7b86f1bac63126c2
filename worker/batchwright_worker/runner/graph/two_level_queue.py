"""Method B3: the CPU queue with two levels. Pure: no I/O, no clock.

Level one: jobs (here: items of a data set) in order of arrival. Level two: inside a job, tasks in the order in which
they became ready. Served is always the first task of the first job that has one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from heapq import heappop, heappush
from typing import Generic, TypeVar

J = TypeVar("J", bound=Hashable)
T = TypeVar("T")


class TwoLevelQueue(Generic[J, T]):
    """Every operation takes O(log n) for n jobs with ready tasks, however many jobs wait for something else."""

    def __init__(self) -> None:
        self._arrivals: dict[J, int] = {}
        self._tasks: dict[J, deque[T]] = {}
        self._order: list[tuple[int, J]] = []  # a heap by arrival: exactly the jobs that have a ready task
        self._next_arrival = 0
        self._length = 0

    def __len__(self) -> int:
        """Number of ready tasks over all jobs."""
        return self._length

    def arrive(self, job: J) -> None:
        """Create the job's queue; jobs are served in the order of these calls."""
        if job in self._arrivals:
            raise ValueError(f"job {job!r} has arrived already")
        self._arrivals[job] = self._next_arrival
        self._tasks[job] = deque()
        self._next_arrival += 1

    def ready(self, job: J, task: T) -> None:
        """Put a task that is ready now behind the job's other ready tasks."""
        tasks = self._tasks[job]
        if not tasks:
            heappush(self._order, (self._arrivals[job], job))
        tasks.append(task)
        self._length += 1

    def take(self) -> tuple[J, T] | None:
        """Remove and give the first task of the first job that has one; None if none is ready."""
        if not self._order:
            return None
        job = self._order[0][1]
        tasks = self._tasks[job]
        task = tasks.popleft()
        if not tasks:
            heappop(self._order)
        self._length -= 1
        return job, task

    def finish(self, job: J) -> None:
        """Remove the job's queue with whatever is still in it (all its tasks are done, or it has failed)."""
        tasks = self._tasks.pop(job)
        arrival = self._arrivals.pop(job)
        if tasks:
            self._length -= len(tasks)
            self._order = [entry for entry in self._order if entry[0] != arrival]
            self._order.sort()
