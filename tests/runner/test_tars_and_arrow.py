"""Tar files as the library webdataset reads them, and Arrow files as Hugging Face `datasets` folders hold them."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.steps.plan import make_plan
from tests.runner.bench import Bench, cpu

MakeBench = Callable[..., Bench]


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def write_tar(path: Path, members: Sequence[tuple[str, bytes]], mode: Any = "w") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def samples(count: int, first: int = 0) -> list[tuple[str, bytes]]:
    """`train/sample-N` with a picture, a label, a text and a JSON object."""
    found = []
    for number in range(first, first + count):
        name = f"train/sample-{number}"
        found += [
            (f"{name}.JPG", bytes([number])),
            (f"{name}.cls", str(number % 3).encode()),
            (f"{name}.txt", f"Nummer {number} ä".encode()),
            (f"{name}.meta.json", json.dumps({"n": number}).encode()),
        ]
    return found


def results(job: Bench) -> list[Any]:
    asyncio.run(job.run_all())
    return job.results("a")


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz")])
def test_samples_of_tar_files_in_shards(bench: MakeBench, name: str, mode: str) -> None:
    job = bench(cpu("a", "sample_functions:members"), input_format="webdataset", shard_size=3)
    write_tar(job.input / name, [("README", b"x"), (".hidden.txt", b"x"), *samples(7)], mode)
    write_tar(job.input / "b.tar", samples(4, first=7))
    assert results(job) == [
        {"jpg": number, "cls": number % 3, "txt": f"Nummer {number} ä", "meta.json": {"n": number}}
        for number in range(11)
    ]
    assert [record["id"] for record in job.records()] == [f"train/sample-{number}" for number in range(11)]


def test_long_names_begin_a_shard_as_well(bench: MakeBench) -> None:
    job = bench(cpu("a", "sample_functions:members"), input_format="webdataset", shard_size=1)
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = job.input / f"{form}.tar"
        path.parent.mkdir(exist_ok=True)
        with tarfile.open(path, "w", format=form) as tar:
            for number in range(3):
                info = tarfile.TarInfo(f"{'deep/' * 40}ä{form}-{number}.txt")
                info.size = 1
                tar.addfile(info, io.BytesIO(str(number).encode()))
    assert [each["txt"] for each in results(job)] == ["0", "1", "2"] * 2


def test_what_cannot_be_decoded_is_that_samples_error(bench: MakeBench) -> None:
    job = bench(cpu("a", "sample_functions:members"), input_format="webdataset")
    write_tar(job.input / "a.tar", [("a.txt", b"good"), ("b.json", b"{"), ("c.npy", npy(np.arange(3)))])
    asyncio.run(job.run_all())
    records = job.records()
    assert records[1]["error"]["message"].startswith("its .json cannot be read")
    assert (records[0]["a"], records[2]["a"]) == ({"txt": "good"}, {"npy": [0, 1, 2]})


def test_keys_that_repeat_are_duplicate_ids_or_places(bench: MakeBench) -> None:
    job = bench(cpu("a", "sample_functions:members"), input_format="webdataset")
    for name in ("a.tar", "b.tar"):
        write_tar(job.input / name, [("x.txt", b"1")])
    with pytest.raises(StepFailed, match=r"'x' in a\.tar:0, b\.tar:0"):
        make_plan(job.job())
    job.input_more = {"idField": ""}
    results(job)
    assert [record["id"] for record in job.records()] == ["a.tar:0", "b.tar:0"]


def whole_tar(folder: Path) -> bytes:
    write_tar(folder / "whole.tar", samples(3))
    return (folder / "whole.tar").read_bytes()


@pytest.mark.parametrize("damage", ["text", "a header", "cut in a header", "cut in a file", "cut gzip"])
def test_a_damaged_tar_file_is_named(bench: MakeBench, tmp_path: Path, damage: str) -> None:
    whole = whole_tar(tmp_path / "else")
    content = {
        "text": b"x" * 2000,
        "a header": whole[:2048] + b"\xff" * 512 + whole[2560:],
        "cut in a header": whole[: 2048 + 100],
        "cut in a file": whole[: 3 * 512 + 1],
        "cut gzip": gzip.compress(whole)[:-20],
    }[damage]
    job = bench(cpu("a", "sample_functions:members"), input_format="webdataset")
    job.input.mkdir()
    (job.input / "a.tar").write_bytes(content)
    with pytest.raises(StepFailed, match=r"a\.tar is no whole tar file"):
        make_plan(job.job())


# --- Arrow


def write_arrow(path: Path, records: Sequence[dict[str, Any]], *, footer: bool = False, batch: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(list(records))
    writer = pa.ipc.new_file if footer else pa.ipc.new_stream
    with writer(path, table.schema) as stream:
        stream.write_table(table, max_chunksize=batch)


@pytest.mark.parametrize("footer", [False, True])
def test_a_saved_data_set_in_shards(bench: MakeBench, footer: bool) -> None:
    job = bench(cpu("a", "sample_functions:identity"), input_format="arrow", shard_size=5)
    rows = [{"text": f"t{n}", "image": {"bytes": None, "path": f"{n}.png"}, "label": n} for n in range(13)]
    write_arrow(job.input / "data-00000-of-00002.arrow", rows[:9], footer=footer)
    write_arrow(job.input / "data-00001-of-00002.arrow", rows[9:], footer=footer)
    write_arrow(job.input / "cache-1f2e.arrow", rows)  # what `Dataset.map` leaves beside the data
    (job.input / "state.json").write_text('{"_data_files": [], "_fingerprint": "x"}')
    (job.input / "dataset_info.json").write_text("{}")
    assert results(job) == rows
    assert job.records()[9]["id"] == "data-00001-of-00002.arrow:0"
    manifest = json.loads((job.output / "_manifest.json").read_text())
    assert sorted(manifest["leftOutNames"]) == ["cache-1f2e.arrow", "dataset_info.json", "state.json"]


def test_ids_of_arrow_records(bench: MakeBench) -> None:
    job = bench(cpu("a", "sample_functions:identity"), input_format="arrow", input_more={"idField": "key"})
    write_arrow(job.input / "a.arrow", [{"key": 7}, {"key": 8}])
    results(job)
    assert [record["id"] for record in job.records()] == ["7", "8"]
    write_arrow(job.input / "b.arrow", [{"key": 7}])
    job.output_more = {"mode": "Overwrite"}
    with pytest.raises(StepFailed, match=r"'7' in a\.arrow:0, b\.arrow:0"):
        make_plan(job.job())


@pytest.mark.parametrize("content", [b"text", b"ARROW1\0\0", b""])
def test_a_damaged_arrow_file_is_named(bench: MakeBench, content: bytes) -> None:
    job = bench(cpu("a", "sample_functions:identity"), input_format="arrow")
    job.input.mkdir()
    (job.input / "a.arrow").write_bytes(content)
    with pytest.raises(StepFailed, match=r"a\.arrow is no whole Arrow file"):
        make_plan(job.job())


def test_rows_that_another_file_chooses_are_refused(bench: MakeBench) -> None:
    job = bench(cpu("a", "sample_functions:identity"), input_format="arrow")
    write_arrow(job.input / "dataset.arrow", [{"v": 1}])
    (job.input / "state.json").write_text('{"_indices_data_files": [{"filename": "indices.arrow"}]}')
    with pytest.raises(StepFailed, match="flatten_indices"):
        make_plan(job.job())
