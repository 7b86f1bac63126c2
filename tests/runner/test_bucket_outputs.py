"""Outputs in buckets: who has them, and failed items that are run again there."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from batchwright_worker.runner import job as runner_job
from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.outputs.temporaries import remove_temporaries
from batchwright_worker.runner.steps.by_mode import commit_job, plan_job
from batchwright_worker.runner.steps.commit import read_manifest
from batchwright_worker.runner.storage import output_lock, presence
from batchwright_worker.runner.storage.locations import Location, locate
from batchwright_worker.runner.storage.output_lock import LEASE_S, LOCK_NAME, Lease, alone, is_held
from batchwright_worker.runner.storage.presence import RUNS_DIR, STALE_S, Presence, running
from batchwright_worker.runner.storage.retry_files import REPLACEMENT_NAME, RETRY_DIR
from tests.runner.bench import Bench, cpu
from tests.runner.test_retry_failed import crashes, mend, repeated, retried
from tests.undisturbed import undisturbed

MakeBench = Callable[..., Bench]
WRITES = ("pipe_file", "put_file", "cp_file", "rm_file")
"""To a bucket, but those of the lease, which a crash gives back at once."""


class Clock:
    """Seconds that pass by being added."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_lease_is_taken_over_when_its_holder_is_silent(place: Location) -> None:
    clock = Clock()
    first, second, third = (Lease(place, clock=clock) for _ in range(3))
    assert first.take()
    assert not second.take()
    clock.now += LEASE_S - 1
    assert first.renew()
    clock.now += 2
    assert not second.take()
    assert not third.take()
    clock.now += LEASE_S
    assert second.take()
    assert not third.take()
    assert not first.renew()
    first.give_back()
    assert is_held(place)
    second.give_back()
    assert not is_held(place)
    assert third.take()


def test_of_many_that_take_over_one_has_it(place: Location) -> None:
    clock = Clock()
    assert Lease(place, clock=clock).take()
    leases = [Lease(place, clock=clock) for _ in range(8)]
    assert not any(lease.take() for lease in leases)
    clock.now += LEASE_S
    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(Lease.take, leases)) == [False] * 7 + [True]


def test_a_block_keeps_its_lease_and_gives_it_back(place: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_lock, "LEASE_S", 0.2)
    monkeypatch.setattr(output_lock, "_LEASE_POLL_S", 0.02)
    inside: list[int] = []

    def enter(seconds: float) -> int:
        """How many are in it at the end."""
        with alone(place):
            inside.append(1)
            time.sleep(seconds)
            there = len(inside)
            inside.clear()
        return there

    with ThreadPoolExecutor(2) as threads:
        # Who is held up for LEASE_S loses it, as is meant.
        run = undisturbed(lambda: list(threads.map(enter, (0.6, 0.6))), lambda there: there == [1, 1])
    assert run == [1, 1]
    assert not is_held(place)


def test_a_lease_that_cannot_be_read_is_anybodys_in_time(place: Location) -> None:
    place.fs.pipe_file(place.at(LOCK_NAME), b"{")
    clock = Clock()
    lease = Lease(place, clock=clock)
    assert not lease.take()
    clock.now += LEASE_S
    assert lease.take()


def test_a_run_that_is_silent_is_none(place: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    present = Presence(place)
    present.begin()
    assert len(running(place)) == 1
    later = datetime.now(UTC) + timedelta(seconds=STALE_S + 5)
    with monkeypatch.context() as patch:
        patch.setattr(presence.time, "time", later.timestamp)
        assert running(place) == []
        remove_temporaries(place)
    assert not place.exists(RUNS_DIR)
    present.end()
    assert running(place) == []


@pytest.fixture
def broken(bench: MakeBench, place: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A complete job of ten items in three parts in a bucket, of which three items failed, and will not again."""
    monkeypatch.setattr(runner_job, "locate", lambda uri, secret: place if uri == place.uri else locate(uri, secret))
    task = cpu("a", "sample_functions:needs_a_file", numbers=[1, 2, 9], path=str(tmp_path / "mended"))
    job = bench(task, shard_size=4, output_more={"uri": place.uri})
    job.write_records([{"id": f"i{v}", "v": v} for v in range(10)])
    assert asyncio.run(job.run_all()).manifest.failed == 3
    mend(job)
    return job


def values(place: Location) -> list[Any]:
    names = sorted(name for name in place.fs.ls(place.path, detail=False) if "/part-" in name)
    return [json.loads(line)["a"] for name in names for line in place.fs.cat_file(name).splitlines()]


def test_failed_items_are_run_again_in_a_bucket(broken: Bench, place: Location) -> None:
    done = asyncio.run(retried(broken))
    assert (done.manifest.succeeded, done.manifest.failed, values(place)) == (10, 0, list(range(10)))
    assert read_manifest(place) == done.manifest
    assert not any(place.exists(name) for name in (RETRY_DIR, REPLACEMENT_NAME, "_errors", RUNS_DIR))


def test_a_crash_at_any_request_leaves_the_old_or_the_new_data_set(
    broken: Bench, place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the next command at the latest it is the new one."""
    asyncio.run(repeated(broken))
    saved = {name: place.fs.cat_file(name) for name in place.fs.find(place.path)}
    old = read_manifest(place)
    seen = []
    for moment in range(60):
        place.fs.rm(place.path, recursive=True)
        for name, content in saved.items():
            place.fs.pipe_file(name, content)
        with monkeypatch.context() as patch:
            crashed = crashes(patch, place.fs, WRITES, moment, lambda: commit_job(broken.job()))
        seen.append("old" if read_manifest(place) == old else "new")
        if not place.exists(REPLACEMENT_NAME):
            assert values(place) == ([0, 3, 4, 5, 6, 7, 8] if seen[-1] == "old" else list(range(10)))
        assert commit_job(broken.job()).manifest.failed == 0
        assert values(place) == list(range(10))
        assert not any(place.exists(name) for name in (RETRY_DIR, REPLACEMENT_NAME))
        if not crashed:
            break
    assert seen == sorted(seen, reverse=True)
    assert set(seen) == {"old", "new"}


def test_two_runs_share_an_output_in_a_bucket(broken: Bench, place: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_lock, "_LEASE_POLL_S", 0.02)
    broken.output_more = {**broken.output_more, "mode": "RetryFailed"}

    def run(_: int) -> str:
        try:
            plan_job(broken.job())
            return asyncio.run(retried(broken)).manifest.digest
        except StepFailed as error:
            return error.reason

    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(run, range(2))
    digest = read_manifest(place)
    assert digest is not None
    assert digest.digest in {one, other}
    assert {one, other} - {digest.digest} <= {"NothingFailed", "PlanMissing"}
    assert values(place) == list(range(10))
