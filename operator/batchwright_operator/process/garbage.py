"""Garbage collection in small pieces: Python's full collection looks at every object of the process at once.

With 5,000 pods in the cache that is a pause of a tenth of a second, and a burst sets off one after another. So what
has lived for some seconds is set aside: a collection then looks at what is younger. Objects go as before when nothing
refers to them any more; only of those set aside, circles stay until all are looked at, in a quiet moment now and then.
Python itself looks at the youngest alone: whatever happened to be running when it thought of the others was held up for
as long as a second's events are many (87 ms in the middle of a patch, with 1,000 pods).
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

FREEZE_S: Final = 1.0
YOUNG: Final = 10_000
"""Objects that are made before the youngest are looked at, which takes about a millisecond."""
MANY: Final = 8
"""So many times the youngest: then those that live are looked at and set aside at once, which takes some 10 ms."""
LOOK_S: Final = 0.1
NEVER: Final = 1 << 30
FULL_S: Final = 1800.0
PATIENCE_S: Final = 600.0
"""How much longer a full collection waits for a quiet moment."""


@contextmanager
def young_alone() -> Iterator[None]:
    """Python looks at the youngest objects alone; afterwards everything is as it was, and nothing set aside."""
    thresholds = gc.get_threshold()
    gc.set_threshold(YOUNG, NEVER, NEVER)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


class GarbageCollection:
    """Sets aside what has lived for long. `is_quiet`: whether a pause would keep nobody waiting."""

    def __init__(self, is_quiet: Callable[[], bool]) -> None:
        self._is_quiet = is_quiet

    async def run(self) -> None:
        """Runs until cancelled; then everything is as it was."""
        now = time.monotonic()
        full_at, due_at = now + FULL_S, now
        with young_alone():
            while True:
                if now >= due_at or gc.get_count()[1] >= MANY:
                    is_full = now >= full_at + PATIENCE_S or (now >= full_at and self._is_quiet())
                    if is_full:
                        gc.unfreeze()
                        gc.collect()
                    else:
                        gc.collect(1)
                    gc.freeze()
                    now = time.monotonic()
                    due_at = now + FREEZE_S
                    full_at = now + FULL_S if is_full else full_at
                await asyncio.sleep(min(LOOK_S, max(0.0, due_at - now)))
                now = time.monotonic()
