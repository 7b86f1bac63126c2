"""Garbage collection in small pieces: Python's full collection looks at every object of the process at once.

With 5,000 pods in the cache that is a pause of a tenth of a second, and a burst sets off one after another. So what
has lived for some seconds is set aside: a collection then looks at what is younger. Objects go as before when nothing
refers to them any more; only of those set aside, circles stay until all are looked at, in a quiet moment now and then.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from typing import Final

FREEZE_S: Final = 3.0
FULL_S: Final = 1800.0
PATIENCE_S: Final = 600.0
"""How much longer a full collection waits for a quiet moment."""


class GarbageCollection:
    """Sets aside what has lived for long. `is_quiet`: whether a pause would keep nobody waiting."""

    def __init__(self, is_quiet: Callable[[], bool]) -> None:
        self._is_quiet = is_quiet

    async def run(self) -> None:
        """Runs until cancelled; then everything is as it was."""
        full_at = time.monotonic() + FULL_S
        try:
            while True:
                now = time.monotonic()
                if now >= full_at + PATIENCE_S or (now >= full_at and self._is_quiet()):
                    gc.unfreeze()
                    gc.collect()
                    full_at = now + FULL_S
                else:
                    gc.collect(1)
                gc.freeze()
                await asyncio.sleep(FREEZE_S)
        finally:
            gc.unfreeze()
