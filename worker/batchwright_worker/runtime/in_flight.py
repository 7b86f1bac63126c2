"""Batches in flight on a device that takes the next one while it runs one: a thread waits for their ends, in order."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable

__all__ = ["BatchesInFlight"]


class BatchesInFlight:
    """In the order of their begins. The thread starts with the first batch."""

    def __init__(self) -> None:
        self._ends: queue.SimpleQueue[tuple[str, Callable[[], None]]] = queue.SimpleQueue()
        self._by_model: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def __contains__(self, model: str) -> bool:
        """Is a batch of this model in flight?"""
        return model in self._by_model

    def push(self, model: str, end: Callable[[], None]) -> None:
        """Enter the batch that has begun last. `end` waits for it and sends its response; it must not raise."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
            self._thread.start()
        with self._changed:
            self._by_model[model] += 1
        self._ends.put((model, end))

    def drain(self) -> None:
        """Returns when every batch has ended and its response was sent."""
        with self._changed:
            self._changed.wait_for(lambda: not self._by_model)

    def _work(self) -> None:
        while True:
            model, end = self._ends.get()
            try:
                end()
            finally:
                # After its response: who drains may then unload the model or send the next response.
                with self._changed:
                    self._by_model[model] -= 1
                    if not self._by_model[model]:
                        del self._by_model[model]
                    self._changed.notify_all()
