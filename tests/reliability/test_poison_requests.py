"""A request that kills the runtime: found, quarantined, and no innocent caller pays for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.reliability.callers import Answer, ask_all, traffic
from tests.reliability.fates import Fate, Row, fated_model, journal, manifest, row_of
from tests.reliability.pod import Pod, pod

pytestmark = pytest.mark.slow


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Pod]:
    async with pod(manifest("poisoned", [fated_model(tmp_path, "m", fixed_ms=5.0)])) as here:
        await here.start_runtime()
        await here.start_sidecar()
        await here.ready()
        yield here


def rows_of(fates: dict[int, Fate], count: int) -> list[tuple[Row]]:
    """One row per call, numbered from 1."""
    return [(row_of(number, fates.get(number, Fate.GOOD)),) for number in range(1, count + 1)]


def deaths(folder: Path) -> int:
    """Processes whose last batch never ended."""
    book = journal(folder, "m")
    return sum(bool(book.cut_off(pid)) for pid in {entry.pid for entry in book.entries()})


def check(answers: list[Answer], calls: list[tuple[Row]]) -> None:
    """Poison has its own error, all else its answer."""
    for (row,), answer in zip(calls, answers, strict=True):
        if row[1] == Fate.KILLS:
            assert answer.status == 500
            assert "quarantined" in answer.error
        else:
            assert answer.is_right([row]), answer


async def test_alone_it_costs_two_runtimes(here: Pod, tmp_path: Path) -> None:
    calls = rows_of({1: Fate.KILLS}, 1)
    check(await ask_all(here.http, calls), calls)
    assert deaths(tmp_path) == 2


@pytest.mark.parametrize("poison", [(7,), (3, 22)])
async def test_the_innocents_of_its_batch_are_answered(here: Pod, tmp_path: Path, poison: tuple[int, ...]) -> None:
    calls = rows_of(dict.fromkeys(poison, Fate.KILLS), 24)
    check(await ask_all(here.http, calls), calls)
    assert deaths(tmp_path) <= 8 * len(poison)


async def test_traffic_goes_on_beside_it(here: Pod) -> None:
    calls = rows_of({1: Fate.KILLS}, 1)
    async with traffic(here.http, callers=16, first=100) as load:
        await load.more(100)
        check(await ask_all(here.http, calls), calls)
        await load.more(100)
    assert (load.wrongs, load.lost, len(load.rights)) == ({}, set(), load.asked)
