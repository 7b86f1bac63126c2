"""Several transfers at a time, and the first failure ends all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from batchwright_worker.fetch.errors import FetchError

AT_ONCE = 4
"""One connection seldom fills the network, and a store need not serve a hundred of one pod."""
S = TypeVar("S")
T = TypeVar("T")


async def at_once(subjects: Iterable[S], act: Callable[[S], Awaitable[T]]) -> list[T]:
    """The results in the order of the subjects, at most AT_ONCE at a time. Raises the first FetchError."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def limited(subject: S) -> T:
        async with limit:
            return await act(subject)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(limited(subject)) for subject in subjects]
    except BaseExceptionGroup as failures:
        found = failures.subgroup(FetchError)
        raise (found or failures).exceptions[0] from None
    return [task.result() for task in tasks]
