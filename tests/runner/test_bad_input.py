"""The table of bad inputs: each gets a reason, words that say what to do, or an error record of its own item."""

from __future__ import annotations

import asyncio
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.steps.plan import make_plan
from tests.runner.bench import Bench, cpu, model

MakeBench = Callable[..., Bench]
IDENTITY = cpu("a", "sample_functions:identity")


def empty_folder(job: Bench) -> None:
    job.input.mkdir()


def other_files(job: Bench) -> None:
    job.input.mkdir()
    (job.input / "notes.md").write_text("x")


def blank_lines(job: Bench) -> None:
    job.input.mkdir()
    (job.input / "a.jsonl").write_text("\n\n")


def duplicate_ids(job: Bench) -> None:
    job.write_records([{"id": "x"}, {"id": "y"}, {"id": "x"}])


def cut_off_npy(job: Bench) -> None:
    job.input.mkdir()
    np.save(job.input / "a.npy", np.zeros((10, 4)))
    path = job.input / "a.npy"
    path.write_bytes(path.read_bytes()[:-8])


def pickled_npy(job: Bench) -> None:
    job.input.mkdir()
    np.save(job.input / "a.npy", np.array([{}, {}], dtype=object), allow_pickle=True)


def text_as(name: str) -> Callable[[Bench], None]:
    def write(job: Bench) -> None:
        job.input.mkdir()
        (job.input / name).write_text("just text")

    return write


def records(job: Bench) -> None:
    job.write_records([{"v": 1}])


def output_is_a_file(job: Bench) -> None:
    records(job)
    job.output.write_text("in the way")


def other_jobs_output(job: Bench) -> None:
    records(job)
    asyncio.run(Bench(job.folder, [cpu("b", "sample_functions:double")]).run_all())


def changed_input(job: Bench) -> None:
    records(job)
    asyncio.run(job.run_all())
    job.write_records([{"v": 1}, {"v": 2}])


def foreign_manifest(job: Bench) -> None:
    records(job)
    job.output.mkdir()
    (job.output / "_manifest.json").write_text("{}")


def damaged_parquet(job: Bench) -> None:
    job.input.mkdir()
    path = job.input / "a.parquet"
    parquet.write_table(pa.table({"id": [f"i{number}" for number in range(500)]}), path)
    path.write_bytes(path.read_bytes()[:4] + b"x" * 300 + path.read_bytes()[304:])


def encrypted_parquet(job: Bench) -> None:
    job.input.mkdir()
    path = job.input / "a.parquet"
    parquet.write_table(pa.table({"id": ["a"]}), path)
    path.write_bytes(path.read_bytes()[:-4] + b"PARE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    name: str
    prepare: Callable[[Bench], None]
    reason: str
    words: str
    tasks: tuple[dict[str, object], ...] = (IDENTITY,)
    input_format: str = "jsonl"


CASES = [
    Case(
        name="damaged parquet", prepare=damaged_parquet, reason="InputInvalid", words="damaged", input_format="parquet"
    ),
    Case(
        name="encrypted parquet",
        prepare=encrypted_parquet,
        reason="InputInvalid",
        words="encrypted",
        input_format="parquet",
    ),
    Case(name="missing input", prepare=lambda job: None, reason="InputNotFound", words="check input.uri"),
    Case(name="empty folder", prepare=empty_folder, reason="InputEmpty", words="no files: check input.uri"),
    Case(name="other files", prepare=other_files, reason="InputEmpty", words="none of which ends in .jsonl"),
    Case(name="no items", prepare=blank_lines, reason="InputEmpty", words="no items"),
    Case(
        name="duplicate ids",
        prepare=duplicate_ids,
        reason="DuplicateItemIds",
        words="'x' in data.jsonl:1, ",
    ),
    Case(name="npy cut off", prepare=cut_off_npy, reason="InputInvalid", words="is cut off", input_format="npy"),
    Case(name="npy of objects", prepare=pickled_npy, reason="InputInvalid", words="plain numbers", input_format="npy"),
    Case(name="no npy", prepare=text_as("a.npy"), reason="InputInvalid", words="numpy.save", input_format="npy"),
    Case(
        name="no parquet",
        prepare=text_as("a.parquet"),
        reason="InputInvalid",
        words="no parq",
        input_format="parquet",
    ),
    Case(name="output is a file", prepare=output_is_a_file, reason="OutputNotWritable", words="output"),
    Case(name="output of another job", prepare=other_jobs_output, reason="OutputInUse", words="choose another"),
    Case(name="input changed", prepare=changed_input, reason="InputChanged", words="the input changed"),
    Case(
        name="another's manifest",
        prepare=foreign_manifest,
        reason="OutputInUse",
        words="_manifest.json, which this job",
    ),
    Case(
        name="no such module",
        prepare=records,
        reason="InvalidTask",
        words="put nowhere.py into a ConfigMap",
        tasks=(cpu("a", "nowhere:f"),),
    ),
    Case(
        name="no such function",
        prepare=records,
        reason="InvalidTask",
        words="has no function 'f'; it has Counting, ",
        tasks=(cpu("a", "sample_functions:f"),),
    ),
    Case(
        name="no such built-in",
        prepare=records,
        reason="InvalidTask",
        words="'sharpen' is no built-in",
        tasks=(cpu("a", "sharpen"),),
    ),
    Case(
        name="duplicate task name",
        prepare=records,
        reason="InvalidTask",
        words="two tasks are named 'a'",
        tasks=(IDENTITY, IDENTITY),
    ),
    Case(
        name="later dependency",
        prepare=records,
        reason="InvalidTask",
        words="list tasks in order",
        tasks=(cpu("a", "sample_functions:add", "b"), cpu("b", "sample_functions:double")),
    ),
    Case(
        name="neither cpu nor model",
        prepare=records,
        reason="InvalidTask",
        words="exactly one of cpu and model",
        tasks=({"name": "a"},),
    ),
    Case(
        name="model with two sources",
        prepare=records,
        reason="InvalidTask",
        words="let a CPU task join them",
        tasks=(IDENTITY, cpu("b", "sample_functions:double"), model("m", "d", "m", "a", "b")),
    ),
    Case(
        name="no format",
        prepare=records,
        reason="InvalidJob",
        words="Invalid enum value 'xml'",
        input_format="xml",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_plan_says_what_to_do(case: Case, bench: MakeBench) -> None:
    job = bench(*case.tasks, input_format=case.input_format)
    case.prepare(job)
    with pytest.raises(StepFailed) as caught:
        make_plan(job.job())
    assert caught.value.reason == case.reason
    assert case.words in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="another user cannot be taken on")
def test_an_output_without_permission_says_which_user_needs_it(bench: MakeBench) -> None:
    job = bench(IDENTITY)
    job.write_records([{"v": 1}])
    job.output.mkdir(mode=0o555)
    child = os.fork()
    if not child:
        status = 9
        try:
            os.setgroups([])
            os.setuid(65532)
            try:
                make_plan(job.job())
            except StepFailed as error:
                status = 0 if error.reason == "OutputNotWritable" and "65532" in str(error) else 1
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


async def test_input_that_changes_after_the_plan_fails_the_shard(bench: MakeBench) -> None:
    job = bench(IDENTITY)
    job.write_records([{"v": 1}])
    make_plan(job.job())
    job.write_records([{"v": 2}, {"v": 3}])
    with pytest.raises(StepFailed, match=r"data\.jsonl changed since the plan") as caught:
        await job.run_shard(0)
    assert (caught.value.reason, caught.value.permanent) == ("InputChanged", True)
    assert not job.parts()


async def test_a_line_that_is_no_json_is_that_items_error(bench: MakeBench) -> None:
    job = bench(cpu("a", "sample_functions:double"))
    job.input.mkdir()
    (job.input / "a.jsonl").write_bytes(b'{"v": 1}\n{"v": \n[3]\n\xff\xfe\n{"v": 4}\n')
    await job.run_all()
    found = job.records()
    assert [record.get("a") for record in found] == [2, None, None, None, 8]
    assert all(record["error"]["task"] == "item" for record in found[1:4])
    assert "not a JSON object" in found[1]["error"]["message"]


def bomb(side: int) -> bytes:
    """A PNG of side x side pixels in a few bytes."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not an image that Pillow can read"),
        (b"no image at all", "not an image that Pillow can read"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "corrupt"),
        (bomb(9000), "9000 x 9000 pixels, more than max_pixels"),
        (bomb(60_000), "the image is too large"),
    ],
    ids=["empty", "text", "cut off", "large", "decompression bomb"],
)
async def test_an_image_that_cannot_be_decoded_is_that_items_error(bench: MakeBench, data: bytes, words: str) -> None:
    job = bench(cpu("image", "decode"), cpu("small", "resize", "image", height=2, width=2), input_format="images")
    job.input.mkdir()
    (job.input / "bad.png").write_bytes(data)
    await job.run_all()
    (record,) = job.records()
    assert record["error"]["task"] == "image"
    assert words in record["error"]["message"]
