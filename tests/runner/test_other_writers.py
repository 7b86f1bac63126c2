"""Data sets as the packages `datasets` and `webdataset` themselves write them (`locks/peers-datasets.txt`)."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from e2e.peers import peer_python
from tests.runner.bench import Bench, cpu

MakeBench = Callable[..., Bench]
pytestmark = pytest.mark.slow
_HUGGING_FACE = """
import datetime, sys
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
features = Features({
    "id": Value("string"), "text": Value("string"), "label": ClassLabel(names=["no", "yes"]),
    "words": List(Value("string")), "vector": List(Value("float32"), length=3), "made": Value("timestamp[s]"),
})
def rows(count):
    return {
        "id": [f"r{n}" for n in range(count)], "text": [f"Satz {n} ä" for n in range(count)],
        "label": [n % 2 for n in range(count)], "words": [["w"] * n for n in range(count)],
        "vector": [[n, n + 0.5, -n] for n in range(count)],
        "made": [datetime.datetime(2026, 1, 1 + n) for n in range(count)],
    }
train = Dataset.from_dict(rows(7), features=features)
DatasetDict(train=train, test=train.select(range(2))).save_to_disk(sys.argv[1], num_shards={"train": 2, "test": 1})
train.filter(lambda row: row["label"] == 1).flatten_indices().save_to_disk(sys.argv[1] + "/filtered")
"""
_WEBDATASET = """
import sys
import numpy as np
import webdataset
with webdataset.ShardWriter(sys.argv[1] + "/a-%04d.tar", maxcount=3, verbose=0) as writer:
    for n in range(7):
        sample = {"txt": f"Nummer {n} ä", "cls": n % 2, "json": {"n": n}, "npy": np.arange(3) + n}
        writer.write({"__key__": f"s{n}", **sample})
with webdataset.TarWriter(sys.argv[1] + "/b.tar.gz", compress=True) as writer:
    writer.write({"__key__": "last", "txt": "end", "cls": 1, "json": [1], "npy": np.zeros(1)})
"""


def written(script: str, folder: Path) -> None:
    folder.mkdir(parents=True)
    told = subprocess.run(
        [peer_python("datasets"), "-c", script, str(folder)], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr


def results(job: Bench) -> list[Any]:
    asyncio.run(job.run_all())
    return job.results("a")


def test_a_split_that_datasets_saved(bench: MakeBench, tmp_path: Path) -> None:
    written(_HUGGING_FACE, tmp_path / "saved")
    (tmp_path / "input").symlink_to(tmp_path / "saved" / "train")
    job = bench(cpu("a", "sample_functions:identity"), input_format="arrow", shard_size=3)
    got = results(job)
    assert [record["id"] for record in job.records()] == [f"r{n}" for n in range(7)]
    assert [row["text"] for row in got] == [f"Satz {n} ä" for n in range(7)]
    assert [row["label"] for row in got] == [n % 2 for n in range(7)]
    assert [row["words"] for row in got] == [["w"] * n for n in range(7)]
    assert [row["vector"] for row in got] == [[n, n + 0.5, -n] for n in range(7)]
    assert got[3]["made"].startswith("2026-01-04")


def test_a_filtered_data_set_is_what_it_was_filtered_to(bench: MakeBench, tmp_path: Path) -> None:
    written(_HUGGING_FACE, tmp_path / "saved")
    (tmp_path / "input").symlink_to(tmp_path / "saved" / "filtered")
    job = bench(cpu("a", "sample_functions:identity"), input_format="arrow")
    assert [row["id"] for row in results(job)] == ["r1", "r3", "r5"]


def test_shards_that_webdataset_wrote(bench: MakeBench, tmp_path: Path) -> None:
    written(_WEBDATASET, tmp_path / "input")
    job = bench(cpu("a", "sample_functions:identity"), input_format="webdataset", shard_size=2)
    got = results(job)
    assert [record["id"] for record in job.records()] == [*(f"s{n}" for n in range(7)), "last"]
    assert got[:7] == [
        {"__key__": f"s{n}", "txt": f"Nummer {n} ä", "cls": n % 2, "json": {"n": n}, "npy": [n, n + 1, n + 2]}
        for n in range(7)
    ]
    assert got[7] == {"__key__": "last", "txt": "end", "cls": 1, "json": [1], "npy": [0.0]}
