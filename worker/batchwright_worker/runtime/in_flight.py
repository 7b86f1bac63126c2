"""Batches under way on a device that takes the next one while it runs one: a thread waits for their ends, in order."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable


class InFlight:
    """`push` what ends a batch and answers it; it must not raise. The thread starts with the first one."""

    def __init__(self) -> None:
        self._ends: queue.SimpleQueue[tuple[str, Callable[[], None]]] = queue.SimpleQueue()
        self._open: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def __contains__(self, model: str) -> bool:
        """Is a batch of this model under way?"""
        return model in self._open

    def push(self, model: str, end: Callable[[], None]) -> None:
        """The batch of this model that has begun last."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
            self._thread.start()
        with self._changed:
            self._open[model] += 1
        self._ends.put((model, end))

    def drain(self) -> None:
        """Returns when every batch has been answered."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open)

    def _work(self) -> None:
        while True:
            model, end = self._ends.get()
            try:
                end()
            finally:
                with self._changed:
                    self._open[model] -= 1
                    if not self._open[model]:
                        del self._open[model]
                    self._changed.notify_all()
