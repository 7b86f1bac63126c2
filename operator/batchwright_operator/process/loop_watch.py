"""How long the event loop was silent: it runs everything, so whoever keeps it to himself keeps everybody waiting."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from batchwright_operator.reconcile.metrics import Metrics

LOOK_S: Final = 0.05


class LoopWatch:
    """Looks at the clock twenty times a second; what came later than that was silence."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._looked = time.monotonic()
        self._longest_s = self._most_cpu_s = 0.0

    @property
    def silent_s(self) -> float:
        """Since when nothing has run, as seen from another thread."""
        return max(0.0, time.monotonic() - self._looked - LOOK_S)

    def start_anew(self) -> None:
        """Forgets the longest silence: what came before (reading all lists) kept nobody waiting."""
        self._longest_s = self._most_cpu_s = 0.0

    async def run(self) -> None:
        """Runs until cancelled."""
        cpu_s = time.thread_time()
        while True:
            await asyncio.sleep(LOOK_S)
            silent_s, self._looked = self.silent_s, time.monotonic()
            # On a machine where others run too, silence may be theirs: what the loop itself used is its own doing.
            used_s, cpu_s = time.thread_time() - cpu_s, time.thread_time()
            if used_s > self._most_cpu_s:
                self._most_cpu_s = used_s
                self._metrics.most_cpu.set(used_s)
            self._metrics.loop_silence.observe(silent_s)
            if silent_s > self._longest_s:
                self._longest_s = silent_s
                self._metrics.longest_silence.set(silent_s)
