"""What a benchmark asks of an engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from batchwright_worker.api.messages import BenchmarkResult


class BenchmarkError(Exception):
    """The processor cannot be measured; the message says what to do."""


class BatchTooLarge(Exception):  # noqa: N818 - a fact, not a failure: it ends a series
    """This many images at once do not fit."""


class BenchmarkEngine(Protocol):
    """The reference model on one device of a processor. Seconds are those of the work alone, without start-up."""

    def about(self) -> BenchmarkResult:
        """Product, driver, runtime and devices; the measured fields are still empty."""

    def fits(self, batch: int, services: int) -> bool:
        """May the benchmark itself run this, as far as can be predicted?"""

    def holds(self, batch: int, services: int) -> bool:
        """Has the processor the memory for this many services with batches of this size?"""

    def run(self, batch: int, runs: int) -> float:
        """Seconds that so many runs of one service took, one after the other. Raises OutOfMemory."""

    def run_services(self, batch: int, services: int, runs: int) -> float:
        """Seconds until so many services at once had done so many runs each. Raises OutOfMemory."""


def timed_together(services: int, work: Callable[[], None]) -> float:
    """Seconds from a common start until the last of so many threads is done. Raises what the first one raised."""
    barrier = threading.Barrier(services + 1)
    failures: list[BaseException] = []

    def serve() -> None:
        barrier.wait()
        try:
            work()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=serve) for _ in range(services)]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - start
    if failures:
        raise failures[0]
    return elapsed
