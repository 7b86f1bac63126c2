"""A job run from Python, and its output read as Arrow: whole, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import batchwright as bw

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "local"


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    manifests = bw.load(EXAMPLE / "job.yaml", EXAMPLE / "deployment.yaml")
    said = bw.run_local(manifests, volumes={"data": EXAMPLE, "results": folder}, functions=[EXAMPLE])
    assert (said["items"], said["failed"]) == (10, 0)
    return folder / "largest"


def test_results_are_rows_in_the_order_of_the_input(output: Path) -> None:
    found = bw.read_output(output)
    table = found.table()
    assert table.column("id").to_pylist() == [f"item-{n}" for n in range(10)]
    numbers = [json.loads(line)["numbers"] for line in (EXAMPLE / "items.jsonl").read_text().splitlines()]
    assert [value[0] for value in table.column("largest").to_pylist()] == [row.index(max(row)) for row in numbers]
    assert (found.items, found.failed, found.failures()) == (10, 0, [])


def test_an_output_that_is_not_complete_is_no_table(output: Path, tmp_path: Path) -> None:
    with pytest.raises(bw.NotComplete, match="has not ended"):
        bw.read_output(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(output, copy)
    part = sorted(copy.glob("part-*"))[0]
    part.write_bytes(part.read_bytes()[:-5])
    with pytest.raises(bw.NotComplete, match=part.name):
        bw.read_output(copy).table()


def test_a_run_that_fails_says_the_reason(tmp_path: Path) -> None:
    manifests = bw.load(EXAMPLE / "job.yaml", EXAMPLE / "deployment.yaml")
    with pytest.raises(bw.LocalRunFailed) as failed:
        bw.run_local(manifests, volumes={"data": tmp_path, "results": tmp_path}, functions=[EXAMPLE])
    assert failed.value.reason == "InputNotFound"
    assert "items.jsonl" in str(failed.value)
