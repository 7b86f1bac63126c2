"""Every input format: items, ids, shards that cut through files, the same plan twice."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import aiohttp.web
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.inputs.inputs import format_of, shard_items
from batchwright_worker.runner.steps.plan import make_plan
from batchwright_worker.runner.storage.locations import locate
from batchwright_worker.runner.storage.plan_file import PlanFile, read_plan
from tests.runner.bench import Bench, cpu

MakeBench = Callable[..., Bench]
IDENTITY = cpu("a", "sample_functions:identity")


def planned(job: Bench) -> PlanFile:
    make_plan(job.job())
    plan = read_plan(locate(job.output.as_uri()))
    assert plan is not None
    return plan


def items(job: Bench) -> list[tuple[str, object]]:
    plan = planned(job)
    location, form = locate(job.input.as_uri()), format_of(job.job().spec.input)
    found = [item for shard in plan.shards for item in shard_items(location, form, shard)]
    assert not any(item.error for item in found)
    return [(item.id, item.data) for item in found]


def test_jsonl_takes_the_records_own_id_or_the_line(bench: MakeBench) -> None:
    job = bench(IDENTITY, shard_size=2)
    job.input.mkdir()
    (job.input / "a.jsonl").write_text('{"id": "x", "v": 1}\n\n{"v": 2}\r\n{"id": 7}')
    (job.input / "b.jsonl").write_text('{"v": "ü"}\n')
    assert items(job) == [
        ("x", {"id": "x", "v": 1}),
        ("a.jsonl:3", {"v": 2}),
        ("7", {"id": 7}),
        ("b.jsonl:1", {"v": "ü"}),
    ]


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(st.lists(st.sampled_from(["", "  ", "word", "zwei Wörter", "x" * 70]), max_size=9), max_size=4),
    size=st.integers(1, 5),
)
def test_lines_are_found_again_from_their_offsets(
    texts: Sequence[Sequence[str]], size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    job = Bench(tmp_path_factory.mktemp("job"), [IDENTITY], input_format="text", shard_size=size)
    job.input.mkdir()
    wanted = []
    for number, lines in enumerate(texts):
        (job.input / f"{number}.txt").write_text("\n".join(lines))
        wanted += [(f"{number}.txt:{i}", line) for i, line in enumerate(lines, start=1) if line.strip()]
    if wanted:
        assert items(job) == wanted
    else:
        with pytest.raises(StepFailed) as caught:
            planned(job)
        assert caught.value.reason == "InputEmpty"


def test_parquet_gives_records_across_row_groups(bench: MakeBench) -> None:
    job = bench(IDENTITY, input_format="parquet", shard_size=4)
    job.input.mkdir()
    table = pa.table({"id": [f"r{i}" for i in range(11)], "v": list(range(11))})
    parquet.write_table(table, job.input / "t.parquet", row_group_size=3)
    assert items(job) == [(f"r{i}", {"id": f"r{i}", "v": i}) for i in range(11)]


def test_npy_gives_elements_of_the_first_dimension(bench: MakeBench) -> None:
    job = bench(IDENTITY, input_format="npy", shard_size=4)
    job.input.mkdir()
    array = np.arange(60, dtype=np.float32).reshape(10, 2, 3)
    np.save(job.input / "a.npy", array)
    found = items(job)
    assert [name for name, _ in found] == [f"a.npy:{i}" for i in range(10)]
    assert np.array_equal(np.stack([data for _, data in found]), array)  # type: ignore[arg-type]


def test_images_are_files_below_the_folder_by_path(bench: MakeBench) -> None:
    job = bench(IDENTITY, input_format="images", shard_size=2)
    png = io.BytesIO()
    Image.new("L", (2, 2)).save(png, "PNG")
    for name in ("b.png", "a/z.PNG", "a/.hidden.png", "readme.txt"):
        (job.input / name).parent.mkdir(parents=True, exist_ok=True)
        (job.input / name).write_bytes(png.getvalue())
    assert items(job) == [("a/z.PNG", png.getvalue()), ("b.png", png.getvalue())]


def test_a_pattern_chooses_files(bench: MakeBench) -> None:
    job = bench(IDENTITY)
    job.write_records([{"v": 1}], "keep-1.jsonl")
    job.write_records([{"v": 2}], "drop.jsonl")
    config = job.config()
    spec = dict(config.spec)
    spec["input"] = {"uri": f"{job.input.as_uri()}/keep-*.jsonl", "format": "jsonl"}
    job.more = {"input": spec["input"]}
    plan = planned(job)
    assert [segment.name for shard in plan.shards for segment in shard.segments] == ["keep-1.jsonl"]


def test_the_same_input_gives_the_same_plan_and_a_second_call_changes_nothing(bench: MakeBench, tmp_path: Path) -> None:
    job = bench(IDENTITY, shard_size=3)
    job.write_records([{"v": v} for v in range(10)])
    first = make_plan(job.job())
    path = job.output / "_batchwright" / "plan.json"
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    assert make_plan(job.job()) == first
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    path.unlink()
    assert make_plan(job.job()) == first
    assert path.read_bytes() == before[0]


@pytest.fixture
async def web(bench: MakeBench) -> AsyncIterator[str]:
    """A web server with one file of two records."""
    job = bench(IDENTITY)
    job.write_records([{"v": 1}, {"v": 2}])
    app = aiohttp.web.Application()
    app.router.add_static("/", job.input)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/data.jsonl"
    await runner.cleanup()


async def test_a_file_on_the_web_is_read(bench: MakeBench, web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHWRIGHT_ALLOW_HTTP", "true")
    monkeypatch.setenv("BATCHWRIGHT_ALLOW_PRIVATE_ADDRESSES", "true")
    job = bench(cpu("a", "sample_functions:double"), more={"input": {"uri": web, "format": "jsonl"}})
    plan = await asyncio.to_thread(make_plan, job.job())
    assert plan.items == 2
    await job.run_shard(0)
    assert [record["a"] for record in job.records()] == [2, 4]


@pytest.mark.parametrize(
    ("status", "reason", "permanent", "words"),
    [
        (404, "InputNotFound", True, "does not exist"),
        (410, "InputNotFound", True, "does not exist"),
        (403, "InputNotReadable", True, "403"),
        (429, "InputNotReadable", False, "429"),
        (503, "InputNotReadable", False, "503"),
        (None, "InputNotReadable", False, "Cannot connect"),
    ],
)
async def test_what_a_web_server_says_to_the_first_request_is_told_from_a_file_that_is_not_there(
    bench: MakeBench, monkeypatch: pytest.MonkeyPatch, status: int | None, reason: str, permanent: bool, words: str
) -> None:
    async def answer(_: aiohttp.web.BaseRequest) -> aiohttp.web.Response:
        return aiohttp.web.Response(status=status or 200)

    monkeypatch.setenv("BATCHWRIGHT_ALLOW_HTTP", "true")
    monkeypatch.setenv("BATCHWRIGHT_ALLOW_PRIVATE_ADDRESSES", "true")
    runner = aiohttp.web.ServerRunner(aiohttp.web.Server(answer))
    await runner.setup()
    try:
        await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
        uri = f"http://127.0.0.1:{runner.addresses[0][1]}/data.jsonl"
        if status is None:
            await runner.cleanup()
        job = bench(IDENTITY, more={"input": {"uri": uri, "format": "jsonl"}})
        with pytest.raises(StepFailed, match=words) as caught:
            await asyncio.to_thread(make_plan, job.job())
    finally:
        await runner.cleanup()
    assert (caught.value.reason, caught.value.permanent) == (reason, permanent)


async def test_an_address_that_the_administrator_does_not_allow_is_not_read(
    bench: MakeBench, web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHWRIGHT_ALLOW_HTTP", "true")
    job = bench(IDENTITY, more={"input": {"uri": web, "format": "jsonl"}})
    with pytest.raises(StepFailed, match="a private address") as caught:
        await asyncio.to_thread(make_plan, job.job())
    assert caught.value.reason == "InvalidUri"
    monkeypatch.delenv("BATCHWRIGHT_ALLOW_HTTP")
    with pytest.raises(StepFailed, match="scheme 'http' is not fetched"):
        await asyncio.to_thread(make_plan, job.job())
