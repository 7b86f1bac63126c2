"""Method A1's series on engines with a known law: what ends it, what it counts, what it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from batchwright_worker.api.messages import BenchmarkResult
from batchwright_worker.benchmark.engines.base import BatchTooLarge
from batchwright_worker.benchmark.series import Budget, Series


@dataclass
class Law:
    """An engine whose batch of n takes `seconds(n)`; so many services at once share `parallel` of it."""

    seconds: Callable[[int], float]
    memory_images: int = 10**9
    modest_images: int = 10**9
    """What the benchmark itself may run."""
    parallel: int = 1
    contention: float = 0.0
    surprise_at: int | None = None
    spent: float = 0.0
    sizes: list[int] = field(default_factory=list)
    hiccups: int = 0

    def about(self) -> BenchmarkResult:
        return BenchmarkResult(kind="law")

    def fits(self, batch: int, services: int) -> bool:
        return batch * services <= min(self.memory_images, self.modest_images)

    def holds(self, batch: int, services: int) -> bool:
        return batch * services <= self.memory_images

    def run(self, batch: int, runs: int) -> float:
        if self.surprise_at is not None and batch >= self.surprise_at:
            raise BatchTooLarge("surprise")
        self.sizes.append(batch)
        elapsed = runs * self.seconds(batch) * (3 if self.hiccups > 0 and batch == 4 else 1)
        self.hiccups -= 1 if batch == 4 else 0
        self.spent += elapsed
        return elapsed

    def run_services(self, batch: int, services: int, runs: int) -> float:
        rounds = services / min(services, self.parallel)
        elapsed = runs * rounds * self.seconds(batch) * (1 + self.contention * max(0, services - self.parallel))
        self.spent += elapsed
        return elapsed


def table(law: Law, budget_s: float = 60.0) -> dict[int, tuple[float, int]]:
    budget = Budget(budget_s)
    rows = Series(law, budget).load_table()
    assert budget.spent_s == pytest.approx(law.spent)  # start-up aside, everything is counted
    return {row.batch_size: (row.images_per_second, row.max_services) for row in rows}


def test_rates_follow_the_law() -> None:
    found = table(Law(lambda n: 0.010 + 0.002 * n))
    for batch, (rate, _) in found.items():
        assert rate == pytest.approx(batch / (0.010 + 0.002 * batch), rel=1e-3)
    assert list(found)[:5] == [1, 2, 4, 8, 16]


def test_a_spot_check_measures_one_size_with_samples_as_long_as_a_benchmarks() -> None:
    law = Law(lambda n: 0.010 + 0.002 * n)
    (row,) = Series(law, Budget(10.0)).spot_check(8)
    assert (row.batch_size, row.images_per_second) == (8, pytest.approx(8 / 0.026, rel=1e-3))
    assert set(law.sizes) == {8}
    assert 3.0 <= law.spent <= 10.0
    assert Series(Law(lambda n: 0.1, memory_images=4), Budget(10.0)).spot_check(8) == []


@pytest.mark.parametrize(
    ("law", "sizes"),
    [
        (Law(lambda n: 0.1 * n), [1, 2, 4]),  # flat twice
        (Law(lambda n: 0.1 * n if n < 4 else 0.2 * n), [1, 2, 4]),  # falls
        (Law(lambda n: 0.01 + 0.001 * n, memory_images=8), [1, 2, 4, 8]),  # no memory, foreseen
        (Law(lambda n: 0.01 + 0.001 * n, surprise_at=8), [1, 2, 4]),  # no memory, met
        (Law(lambda n: 2.0 + 0.1 * n), [1, 2]),  # no time
        (Law(lambda n: 0.1, memory_images=0), []),  # not even one
    ],
    ids=["flat", "falls", "full", "surprise", "no time", "nothing fits"],
)
def test_what_ends_the_series(law: Law, sizes: list[int]) -> None:
    assert list(table(law)) == sizes


@pytest.mark.parametrize(
    ("law", "services"),
    [
        (Law(lambda n: 0.01 + 0.001 * n, parallel=4, contention=0.2), 4),
        (Law(lambda n: 0.1 * n), 4),  # one core: never falls, stays flat twice
        (Law(lambda n: 0.1 * n, contention=0.2), 1),  # thrashes at once
        (Law(lambda n: 0.1 * n, memory_images=9), 4),
        (Law(lambda n: 0.01 + 0.01 * n, memory_images=32, modest_images=16), 2),  # counted at 4, held at 16 twice
    ],
    ids=["four", "flat", "thrashes", "memory", "modest"],
)
def test_services_until_the_total_falls(law: Law, services: int) -> None:
    found = table(law, budget_s=120)
    best = max(found, key=lambda batch: found[batch][0])
    assert found[best][1] == services


def test_one_hiccup_does_not_end_the_series() -> None:
    found = table(Law(lambda n: 0.010 + 0.002 * n, hiccups=4))
    assert found[4][0] == pytest.approx(4 / 0.018, rel=1e-3)
    assert 16 in found


@pytest.mark.parametrize("budget_s", [3.0, 20.0, 60.0])
def test_budget_is_kept(budget_s: float) -> None:
    law = Law(lambda n: 0.02 + 0.01 * n)
    assert table(law, budget_s)
    assert law.spent <= budget_s * 1.1
