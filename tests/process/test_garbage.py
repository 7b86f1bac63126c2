"""What has lived for long is set aside, so that no collection looks at all of it; at the end all is as it was."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from batchwright_operator.process import garbage
from batchwright_operator.process.garbage import GarbageCollection


class Circle:
    """Refers to itself: only a collection finds it."""

    def __init__(self) -> None:
        self.itself = self


async def collecting(seconds: float, *, is_quiet: bool) -> int:
    """Runs for so long; how many objects were set aside."""
    running = asyncio.ensure_future(GarbageCollection(lambda: is_quiet).run())
    await asyncio.sleep(seconds)
    frozen = gc.get_freeze_count()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    return frozen


async def test_what_lives_is_set_aside_and_given_back() -> None:
    thresholds = gc.get_threshold()
    assert await collecting(0.05, is_quiet=True) > 1000
    assert gc.get_freeze_count() == 0
    assert gc.get_threshold() == thresholds


async def test_python_itself_looks_at_the_youngest_alone_meanwhile() -> None:
    looked: list[int] = []
    running = asyncio.ensure_future(GarbageCollection(lambda: False).run())
    await asyncio.sleep(0.01)
    gc.callbacks.append(lambda phase, info: looked.append(info["generation"]) if phase == "start" else None)
    try:
        kept = [[number] for number in range(300_000)]  # at the usual thresholds this is seen whole again and again
    finally:
        gc.callbacks.pop()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(kept) == 300_000
    assert len(looked) > 10
    assert set(looked) == {0}


async def test_circles_among_what_was_set_aside_go_in_a_quiet_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "FREEZE_S", 0.02)
    monkeypatch.setattr(garbage, "FULL_S", 0.1)
    circle = Circle()
    gone = weakref.ref(circle)
    running = asyncio.ensure_future(GarbageCollection(lambda: True).run())
    await asyncio.sleep(0.01)
    del circle
    assert gone() is not None
    async with asyncio.timeout(60):
        while gone() is not None:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
