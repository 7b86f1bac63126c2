"""Method A1 as a series of measurements: growing batches of one service, then growing numbers of services. Pure.

A rate is the median over samples that are each long enough to average a CPU quota's periods (100 ms) out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from statistics import median
from typing import Final

from batchwright_worker.api.messages import LoadTableRow
from batchwright_worker.benchmark.engines.base import BatchTooLarge, BenchmarkEngine

SAMPLES: Final = 3
MAX_BATCH: Final = 1024
MAX_SERVICES: Final = 64
SEVERAL: Final = 4
"""Services at once that make counting them worth while."""
RISES: Final = 1.03
"""A rate that is not 3 % above the best before it does not rise; two such in a row end a series."""
FALLS: Final = 0.95
"""A rate below this share of the best falls, which ends a series at once."""
_BATCHES_SHARE: Final = 0.65
"""Of the budget; the rest is for the services."""
_LONGEST_SAMPLE_S: Final = 1.0

Report = Callable[[str], None]


@dataclass(slots=True)
class Budget:
    """Seconds of measured work; the engine's own times are what is counted."""

    total_s: float
    spent_s: float = 0.0

    @property
    def sample_s(self) -> float:
        """Shortest sample: a second, less where the budget is small."""
        return min(_LONGEST_SAMPLE_S, self.total_s / 60)

    def allows(self, seconds: float, share: float = 1.0) -> bool:
        """May so much more be spent within this share of the whole?"""
        return self.spent_s + seconds <= self.total_s * share


@dataclass(slots=True)
class Series:
    """One benchmark of one engine. `report` is called with a line per step."""

    engine: BenchmarkEngine
    budget: Budget
    report: Report = field(default=lambda line: None)

    def load_table(self) -> list[LoadTableRow]:
        """The load table, batch sizes ascending; empty when not even one image fits. Services are counted for two of
        the best batch sizes (those of which the benchmark may run several at once); other rows have the better one's
        number, as far as the processor's memory holds it."""
        rates = self._rates()
        tried = [batch for batch in _by_rate(rates) if self.engine.fits(batch, SEVERAL)] or _by_rate(rates)
        counted = {batch: self._services(batch, rates[batch]) for batch in tried[:2]}
        otherwise = next((count for count in counted.values() if count), 1)
        return [
            LoadTableRow(
                batch_size=batch,
                images_per_second=round(rate, 3),
                max_services=self._held(batch, counted.get(batch) or otherwise),
            )
            for batch, rate in rates.items()
        ]

    def spot_check(self, batch: int) -> list[LoadTableRow]:
        """The rate of one service at one batch size, as a table of one row; empty where the memory does not hold it."""
        if not self.engine.fits(batch, 1):
            return []
        rate = self._rate(batch, min(_LONGEST_SAMPLE_S, self.budget.total_s / (2 * SAMPLES)))
        return [LoadTableRow(batch_size=batch, images_per_second=round(rate, 3), max_services=1)]

    def _held(self, batch: int, services: int) -> int:
        while services > 1 and not self.engine.holds(batch, services):
            services -= 1
        return services

    def _rates(self) -> dict[int, float]:
        """Batch size -> images/s of one service, until memory, a falling or a flat rate, or the budget ends it."""
        rates: dict[int, float] = {}
        batch, flat = 1, 0
        while batch <= MAX_BATCH and self._worth_trying(batch, rates):
            try:
                rate = self._believable(self._rate, batch, max(rates.values(), default=0.0))
            except BatchTooLarge as error:
                self.report(f"batch {batch}: {error}")
                break
            best = max(rates.values(), default=0.0)
            rates[batch] = rate
            self.report(f"batch {batch}: {rate:.2f} images/s")
            flat = 0 if rate > best * RISES else flat + 1
            if rate < best * FALLS or flat == 2:
                break
            batch *= 2
        return rates

    def _worth_trying(self, batch: int, rates: dict[int, float]) -> bool:
        if not self.engine.fits(batch, 1):
            self.report(f"batch {batch}: no memory for it")
            return False
        if not rates:
            return True
        expected_s = batch / rates[batch // 2]
        enough = self.budget.allows(expected_s + max(self.budget.sample_s, expected_s) * SAMPLES, _BATCHES_SHARE)
        if not enough:
            self.report(f"batch {batch}: no time left for it")
        return enough

    def _rate(self, batch: int, sample_s: float | None = None) -> float:
        """Warm-up, then the median over the samples."""
        sample_s = self.budget.sample_s if sample_s is None else sample_s
        warm_s = self._spend(self.engine.run(batch, 1))
        once_s = min(warm_s, self._spend(self.engine.run(batch, 1))) if warm_s < sample_s * 3 else warm_s
        runs = max(1, ceil(sample_s / max(once_s, 1e-6)))
        times = [self._spend(self.engine.run(batch, runs)) for _ in range(SAMPLES)]
        return batch * runs / median(times)

    def _services(self, batch: int, alone: float) -> int | None:
        """The largest number of services before the total rate falls; one that stays flat twice ends the search.
        None: there was no time to try."""
        best, largest, flat, services = alone, 1, 0, 2
        while services <= MAX_SERVICES and self.engine.fits(batch, services):
            runs = max(2, ceil(self.budget.sample_s * alone / (batch * services)))
            if not self.budget.allows(SAMPLES * services * runs * batch / alone):
                return largest if services > 2 else None
            try:
                total = self._believable(partial(self._together, batch, runs), services, best)
            except BatchTooLarge:
                break
            self.report(f"batch {batch}, {services} services: {total:.2f} images/s")
            if total < best * FALLS:
                break
            flat = 0 if total > best * RISES else flat + 1
            best, largest = max(best, total), services
            if flat == 2:
                break
            services *= 2
        return largest

    def _together(self, batch: int, runs: int, services: int) -> float:
        """Images/s of all services."""
        times = [self._spend(self.engine.run_services(batch, services, runs)) for _ in range(SAMPLES)]
        return batch * services * runs / median(times)

    def _believable(self, rate_of: Callable[[int], float], size: int, best: float) -> float:
        """A rate; one that falls is measured once more, in case somebody else was at work for a moment."""
        rate = rate_of(size)
        return max(rate, rate_of(size)) if rate < best * FALLS else rate

    def _spend(self, seconds: float) -> float:
        self.budget.spent_s += seconds
        return seconds


def _by_rate(rates: dict[int, float]) -> list[int]:
    """Batch sizes, highest rate first."""
    return sorted(rates, key=lambda batch: -rates[batch])
