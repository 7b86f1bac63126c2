"""A part is whole or not there, wherever its runner dies; two runners of one shard leave one part."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.graph.block_values import BlockValues
from batchwright_worker.runner.outputs.parts import (
    MadePart,
    PartStatistics,
    PartWriter,
    drop_damaged,
    remove_errors,
    whole_part,
)
from batchwright_worker.runner.outputs.records import BlockResults
from batchwright_worker.runner.outputs.temporaries import TEMPORARY_DIR, remove_temporaries
from batchwright_worker.runner.steps.plan import make_plan, prepare_output
from batchwright_worker.runner.storage.locations import Location, locate, remove
from tests.runner.bench import Bench, cpu

MakeBench = Callable[..., Bench]
LINES = b'{"id":"0","v":"0"}\n{"id":"1","v":"1"}\n{"id":"2","v":"2"}\n'
PLAN = "key-of-the-plan"
FILE_STEPS = ("open", "os.link", "os.rename", "os.remove", "os.mkdir")


def statistics(made: MadePart) -> PartStatistics:
    return PartStatistics(plan=PLAN, items=3, succeeded=3, failed=0, **made._asdict())


def block(first: int, *ids: str) -> BlockResults:
    return BlockResults(first=first, ids=ids, columns={"v": BlockValues(range(len(ids)), rows=list(ids))})


def write_part(output: Location) -> PartStatistics | None:
    with PartWriter(output, 7, "jsonl") as writer:
        writer.put(block(2, "2"))
        writer.put(block(0, "0", "1"))
        return writer.finish(statistics)


def dies_at(step: int, output: Location) -> bool:
    """Write the part in a process that ends without a word at its file step number `step`; False: it had fewer."""
    child = os.fork()
    if not child:
        seen = 0

        def hook(event: str, _: object) -> None:
            nonlocal seen
            if event in FILE_STEPS:
                seen += 1
                if seen == step:
                    os._exit(9)

        sys.addaudithook(hook)
        write_part(output)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_a_crash_between_any_two_steps_leaves_a_whole_part_or_none(tmp_path: Path) -> None:
    wanted = LINES
    step, parts_seen = 0, set()
    while True:
        step += 1
        output = locate((tmp_path / str(step)).as_uri())
        Path(output.path).mkdir()
        died = dies_at(step, output)
        part = Path(output.at("part-00007.jsonl"))
        parts_seen.add(part.exists())
        assert part.exists() == (whole_part(output, "part-00007.jsonl", PLAN) is not None)
        assert not part.exists() or part.read_bytes() == wanted
        write_part(output)
        assert part.read_bytes() == wanted
        if not died:
            break
    assert step > 5
    assert parts_seen == {True, False}


def test_the_first_of_two_runners_wins_and_the_second_sees_its_part(tmp_path: Path) -> None:
    output = locate(tmp_path.as_uri())
    with PartWriter(output, 7, "jsonl") as slow:
        slow.put(block(0, "slow"))
        first = write_part(output)
        assert slow.finish(statistics) is None
    assert first is not None
    assert whole_part(output, "part-00007.jsonl", PLAN) == first
    assert not list((tmp_path / "_batchwright" / "tmp").iterdir())


def test_a_part_without_its_statistics_is_not_whole(tmp_path: Path) -> None:
    output = locate(tmp_path.as_uri())
    write_part(output)
    (tmp_path / "part-00007.jsonl").write_text("other\n")
    assert whole_part(output, "part-00007.jsonl", PLAN) is None


def test_what_killed_runners_left_is_removed(tmp_path: Path) -> None:
    output = locate(tmp_path.as_uri())
    assert dies_at(6, output)
    left = tmp_path / "_batchwright" / "tmp"
    assert list(left.iterdir())
    remove_temporaries(output)
    assert not left.exists()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Location]:
    """An object store (of fsspec, in memory): no rename, no link, only puts of whole objects."""
    location = locate(f"memory://bucket-{tmp_path.name}/out")
    yield location
    location.fs.store.clear()


def test_an_object_store_keeps_the_first_put(store: Location) -> None:
    with PartWriter(store, 7, "jsonl") as slow:
        slow.put(block(0, "slow"))
        first = write_part(store)
        assert slow.finish(statistics) is None
    assert whole_part(store, "part-00007.jsonl", PLAN) == first
    assert store.read("part-00007.jsonl") == LINES


async def test_a_whole_job_leaves_its_results_in_an_object_store(bench: MakeBench, store: Location) -> None:
    job = bench(
        cpu("a", "sample_functions:double"), shard_size=2, more={"output": {"uri": store.uri, "format": "jsonl"}}
    )
    job.write_records([{"v": v} for v in range(3)])
    done = await job.run_all()
    assert (done.manifest.items, len(done.manifest.parts)) == (3, 2)
    assert store.read("part-00001.jsonl") == b'{"id":"data.jsonl:3","a":4}\n'
    assert store.exists("_manifest.json")


async def test_commit_refuses_a_missing_and_a_changed_part(bench: MakeBench) -> None:
    job = bench(cpu("a", "sample_functions:double"), shard_size=2)
    job.write_records([{"v": v} for v in range(4)])
    await job.run_all()
    (job.output / "_manifest.json").unlink()
    part = job.output / "part-00001.jsonl"
    part.write_bytes(part.read_bytes().replace(b"4", b"5"))
    for _ in range(2):
        with pytest.raises(StepFailed, match=r"part-00001\.jsonl is missing or damaged: run shard 1 again"):
            await job.commit()
        part.unlink(missing_ok=True)
    assert not (job.output / "_manifest.json").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
async def test_a_full_disk_fails_the_shard_and_says_so(bench: MakeBench, tmp_path: Path) -> None:
    job = bench(cpu("a", "sample_functions:identity"))
    job.write_records([{"text": "x" * 10_000} for _ in range(100)])
    job.output.mkdir()
    mounted = await asyncio.create_subprocess_exec("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(job.output))
    if await mounted.wait():
        pytest.skip("tmpfs cannot be mounted here")
    try:
        make_plan(job.job())
        with pytest.raises(StepFailed, match="no space left; free or enlarge") as caught:
            await job.run_shard(0)
        assert (caught.value.reason, caught.value.permanent) == ("OutputFull", False)
        assert not job.parts()
        assert not list((job.output / "_batchwright" / "tmp").iterdir())
    finally:
        await (await asyncio.create_subprocess_exec("umount", str(job.output))).wait()


def test_two_commits_may_remove_what_killed_runners_left(tmp_path: Path) -> None:
    """Each may find the folder, or a file in it, gone from under it."""
    for number in range(50):
        output = locate(str(tmp_path / str(number)))
        folder = Path(output.at(TEMPORARY_DIR))
        folder.mkdir(parents=True)
        for name in "abcdef":
            (folder / name).touch()
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(remove_temporaries, (output, output)))


def test_two_commits_may_remove_the_same_error_records(tmp_path: Path) -> None:
    for number in range(50):
        output = locate(str(tmp_path / str(number)))
        folder = Path(output.at("_errors"))
        folder.mkdir(parents=True)
        for name in "abcdef":
            (folder / f"part-{name}").touch()
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(remove_errors, (output, output)))
        assert not list(folder.iterdir())


def test_two_plans_may_try_the_output_at_once(tmp_path: Path) -> None:
    output = locate(str(tmp_path / "out"))
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(prepare_output, [output] * 400))
    assert not list(Path(output.at("_batchwright")).iterdir())


def test_a_part_that_another_runner_has_made_meanwhile_is_not_dropped(tmp_path: Path) -> None:
    output = locate(tmp_path.as_uri())
    assert whole_part(output, "part-00007.jsonl", PLAN) is None
    made = write_part(output)
    drop_damaged(output, "part-00007.jsonl", PLAN)
    assert whole_part(output, "part-00007.jsonl", PLAN) == made
    drop_damaged(output, "part-00007.jsonl", "of another plan")
    assert not Path(output.at("part-00007.jsonl")).exists()


@pytest.mark.parametrize("failing", [False, True])
async def test_a_runner_whose_temporaries_a_commit_removed_sees_the_part_of_the_first(
    bench: MakeBench, failing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench(cpu("a", "sample_functions:unlucky", number=13 if failing else -1))
    job.write_records([{"v": number} for number in range(20)])
    make_plan(job.job())
    opened = PartWriter.__enter__

    def other_run() -> None:
        asyncio.run(job.run_shard(0))
        remove(job.job().output(), TEMPORARY_DIR)  # as one does that knows nothing of the first

    def opens_late(writer: PartWriter) -> PartWriter:
        """The first look has found no part; another run comes and goes while this one makes its own."""
        monkeypatch.setattr(PartWriter, "__enter__", opened)
        made = opened(writer)
        with ThreadPoolExecutor(1) as thread:
            thread.submit(other_run).result()
        return made

    monkeypatch.setattr(PartWriter, "__enter__", opens_late)
    assert (await job.run_shard(0)).done
    assert PartWriter.__enter__ is opened
    assert len(job.parts()) == 1
    await job.commit()
