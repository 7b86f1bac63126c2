"""Two runs of one job on one output: the second helps or waits, neither dies, and no moment of the one is a bad moment
for the other."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from batchwright_worker.local.jobrun import shard_order
from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.steps.by_mode import commit_job, plan_job
from batchwright_worker.runner.steps.model_pins import ModelPins, pinned_models
from batchwright_worker.runner.steps.retry import retried_since
from batchwright_worker.runner.steps.shard import load_plan
from batchwright_worker.runner.storage import output_lock
from batchwright_worker.runner.storage.locations import locate, remove
from batchwright_worker.runner.storage.output_lock import LOCK_NAME, GaveUp, alone, is_held
from batchwright_worker.runner.storage.presence import Presence, running
from batchwright_worker.runner.storage.retry_files import RETRY_DIR, read_retry
from tests.runner.bench import Bench, cpu
from tests.runner.test_retry_failed import CHANGES, WHOLE, manifest, mend, repeated, retried, values

MakeBench = Callable[..., Bench]
ENOUGH = 300


@dataclass(slots=True)
class Beside:
    """Has `other` done, in a thread, at one moment of what this thread does: before its change to the file system with
    this number. It goes on when the other one has ended, or waits for it."""

    patch: pytest.MonkeyPatch
    moment: int
    other: Callable[[], Any]
    waits: threading.Event = field(default_factory=threading.Event)
    result: Future[Any] | None = None

    def run(self, act: Callable[[], Any]) -> tuple[Any, Any]:
        """What both returned; the other one None if `act` has no such moment."""
        this, left = threading.current_thread(), self.moment
        with ThreadPoolExecutor(1) as threads, self.patch.context() as patch:

            def guarded(change: Callable[..., Any]) -> Callable[..., Any]:
                def changed(*args: Any, **more: Any) -> Any:
                    nonlocal left
                    if threading.current_thread() is this:
                        left -= 1
                        if left == -1:
                            self._begin(threads)
                    return change(*args, **more)

                return changed

            def pause(given_up: Callable[[], bool], seconds: float) -> None:
                self.waits.set()
                paused(given_up, min(seconds, 0.002))

            paused = output_lock._pause
            patch.setattr(output_lock, "_pause", pause)
            for name in CHANGES:
                patch.setattr(os, name, guarded(getattr(os, name)))
            done = act()
            return done, self.result.result() if self.result is not None else None

    def _begin(self, threads: ThreadPoolExecutor) -> None:
        self.result = threads.submit(self.other)
        self.result.add_done_callback(lambda _: self.waits.set())
        assert self.waits.wait(60)


def moments(patch: pytest.MonkeyPatch, other: Callable[[], Any]) -> Iterator[Beside]:
    """One for each moment, until there are no more."""
    for moment in range(ENOUGH):
        beside = Beside(patch, moment, other)
        yield beside
        if beside.result is None:
            assert moment > 3
            return
    raise AssertionError("no end of it")


def restore(job: Bench, saved: Path) -> None:
    shutil.rmtree(job.output, ignore_errors=True)
    shutil.copytree(saved, job.output)


def left_behind(job: Bench) -> list[str]:
    """What belongs to no data set."""
    found = (path.relative_to(job.output).as_posix() for path in job.output.rglob("*"))
    return [name for name in found if ".tmp" in name or "/tmp" in name or "/runs" in name or name == LOCK_NAME]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_commits_at_any_moment_of_each_other(bench: MakeBench, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet: the parts differ in their types, so both would write them anew."""
    job = bench(cpu("a", "sample_functions:identity"), shard_size=2, output_format=form)
    job.write_records([{"v": None}, {"v": None}, {"v": 1}, {"v": 2.5}])
    plan_job(job.job())
    for shard in range(2):
        asyncio.run(job.run_shard(shard))
    saved = job.output.rename(job.folder / "saved")
    restore(job, saved)
    wanted, parts = commit_job(job.job()).manifest, job.parts()
    for beside in moments(monkeypatch, lambda: commit_job(job.job())):
        restore(job, saved)
        one, other = beside.run(lambda: commit_job(job.job()))
        assert one.manifest == wanted
        assert other is None or other.manifest == wanted
        assert (job.parts(), left_behind(job)) == (parts, [])


def test_plans_that_replace_another_jobs_results_at_any_moment_of_each_other(
    bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench(cpu("a", "sample_functions:identity"), shard_size=2)
    job.write_records([{"v": number} for number in range(4)])
    asyncio.run(job.run_all())
    saved = job.output.rename(job.folder / "saved")
    job.tasks, job.output_more = [cpu("a", "sample_functions:double")], {"mode": "Overwrite"}

    for beside in moments(monkeypatch, lambda: plan_job(job.job()).digest):
        restore(job, saved)
        planned, other = beside.run(lambda: plan_job(job.job()))
        assert other in {None, planned.digest}
        assert (job.parts(), left_behind(job)) == ({}, [])
        assert load_plan(job.job(), job.job().output()).digest == planned.digest
    for shard in range(2):
        asyncio.run(job.run_shard(shard))
    commit_job(job.job())
    assert job.results("a") == [0, 2, 4, 6]


@pytest.fixture
def broken(bench: MakeBench, tmp_path: Path) -> Bench:
    """A complete job of ten items in three shards, of which three failed, and will not again."""
    task = cpu("a", "sample_functions:needs_a_file", numbers=[1, 2, 9], path=str(tmp_path / "mended"))
    job = bench(task, shard_size=4)
    job.write_records([{"id": f"i{v}", "v": v} for v in range(10)])
    assert asyncio.run(job.run_all()).manifest.failed == 3
    mend(job)
    return job


def test_a_repetition_begins_at_any_moment_of_anothers_commit(broken: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(repeated(broken))
    saved = broken.output.rename(broken.folder / "saved")

    def again() -> str:
        try:
            return asyncio.run(retried(broken)).manifest.digest
        except StepFailed as error:
            return error.reason

    for beside in moments(monkeypatch, again):
        restore(broken, saved)
        done, other = beside.run(lambda: commit_job(broken.job()))
        assert other in {None, done.manifest.digest, "NothingFailed"}
        assert (values(broken), manifest(broken).failed, left_behind(broken)) == (WHOLE, 0, [])
        assert not (broken.output / RETRY_DIR).exists()


def test_a_repetition_is_ended_at_any_moment_of_anothers_shard(broken: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    broken.output_more = {"mode": "RetryFailed"}
    plan_job(broken.job())
    retry = read_retry(broken.job().output())
    assert retry is not None
    saved = broken.output.rename(broken.folder / "saved")

    def shard() -> str:
        try:
            asyncio.run(broken.run_shard(0))
        except StepFailed:
            assert retried_since(broken.job().output(), retry.base)
            return "ended by the other"
        return "made"

    seen = set()
    for beside in moments(monkeypatch, lambda: asyncio.run(retried(broken)).manifest.digest):
        restore(broken, saved)
        made, digest = beside.run(shard)
        seen.add(made)
        if digest is None:
            continue
        assert commit_job(broken.job()).manifest.digest == digest
        assert (values(broken), manifest(broken).failed) == (WHOLE, 0)
        assert not (broken.output / RETRY_DIR).exists()
    assert seen == {"made", "ended by the other"}


async def test_results_are_not_replaced_while_a_run_makes_them(bench: MakeBench) -> None:
    job = bench(cpu("a", "sample_functions:identity"), shard_size=2)
    job.write_records([{"v": number} for number in range(4)])
    plan_job(job.job(), presence := Presence(job.job().output()))
    await job.run_shard(0)
    before = job.parts()
    job.tasks, job.output_more = [cpu("a", "sample_functions:double")], {"mode": "Overwrite"}
    with pytest.raises(StepFailed, match=rf"process {os.getpid()} of .* makes results of 'job'") as caught:
        plan_job(job.job())
    assert (caught.value.reason, caught.value.permanent, job.parts()) == ("OutputInUse", False, before)
    presence.end()
    plan_job(job.job())
    assert not job.parts()


def test_a_run_that_was_killed_is_none(tmp_path: Path) -> None:
    output = locate(tmp_path.as_uri())
    child = os.fork()
    if not child:
        Presence(output).begin()
        os._exit(9)
    os.waitpid(child, 0)
    assert list((tmp_path / "_batchwright" / "runs").iterdir())
    assert running(output) == []
    present = Presence(output)
    present.begin()
    assert [run.process for run in running(output)] == [os.getpid()]
    present.end()
    assert running(output) == []


def test_a_lock_ends_with_its_process_and_a_waiting_run_can_be_stopped(tmp_path: Path) -> None:
    output = locate(tmp_path.as_uri())
    child = os.fork()
    if not child:
        with alone(output):
            os._exit(9)
    os.waitpid(child, 0)
    assert not is_held(output)
    with alone(output):
        assert is_held(output)
        with pytest.raises(GaveUp), alone(output, given_up=lambda: True):
            pass
    assert not (tmp_path / LOCK_NAME).exists()


def test_a_file_system_without_locks_is_written_to_as_if_nobody_else_were_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "no locks")

    monkeypatch.setattr(fcntl, "flock", refused)
    output = locate(tmp_path.as_uri())
    present = Presence(output)
    present.begin()
    with alone(output):
        assert running(output) == []
        assert not is_held(output)
    present.end()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_of_many_one_is_alone(tmp_path: Path) -> None:
    output, inside = locate(tmp_path.as_uri()), []

    def enter(_: int) -> None:
        with alone(output):
            inside.append(1)
            assert len(inside) == 1
            inside.clear()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(enter, range(12)))


def test_a_model_that_is_just_written_down_is_none_yet(tmp_path: Path) -> None:
    output = locate(tmp_path.as_uri())
    ModelPins(output).check("d", "m", {"cpu": "digest"})
    (tmp_path / "_batchwright" / "models" / ".other.json.x.tmp").write_text('{"depl')
    assert [pin.model for pin in pinned_models(output)] == ["m"]


def test_a_folder_is_removed_by_several_at_once(tmp_path: Path) -> None:
    output = locate(tmp_path.as_uri())
    for number in range(20):
        folder = tmp_path / str(number) / "deep"
        folder.mkdir(parents=True)
        for name in "abcdef":
            (folder / name).touch()
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(remove, [output] * 3, [str(number)] * 3))
        assert not folder.parent.exists()


def test_runs_begin_at_different_shards() -> None:
    assert list(shard_order(4, 0)) == [0, 1, 2, 3]
    assert list(shard_order(4, 1)) == [3, 2, 1, 0]
    assert list(shard_order(6, 2)) == [4, 5, 0, 1, 2, 3]
    assert list(shard_order(1, 5)) == [0]
