"""A job run from Python, and its output read as Arrow: whole, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

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


def written(folder: Path, *parts: list[dict[str, Any]], errors: str = "") -> bw.Output:
    """A complete output of these records."""
    told = []
    for number, records in enumerate(parts):
        path = folder / f"part-{number:06}.jsonl"
        path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
        told.append({"name": path.name, "bytes": path.stat().st_size, "succeeded": len(records), "errors": ""})
    if errors:
        (folder / "errors.jsonl").write_text(errors)
        told[0]["errors"] = "errors.jsonl"
    manifest = {"format": "jsonl", "items": sum(map(len, parts)), "failed": 0, "parts": told}
    (folder / "_manifest.json").write_text(json.dumps(manifest))
    return bw.read_output(folder)


def test_a_table_has_what_any_part_has(tmp_path: Path) -> None:
    """Types of each part's own: a column that begins late, whole numbers before others, nothing before text."""
    parts = (
        [{"id": "a", "n": 1, "x": None}],
        [{"id": "b", "n": 1.5, "x": "t", "late": {"k": 1}}],
        [{"late": {"m": 2}}],
    )
    assert written(tmp_path, *parts).table().to_pylist() == [
        {"id": "a", "n": 1.0, "x": None, "late": None},
        {"id": "b", "n": 1.5, "x": "t", "late": {"k": 1, "m": None}},
        {"id": None, "n": None, "x": None, "late": {"k": None, "m": 2}},
    ]


def test_text_stays_text(tmp_path: Path) -> None:
    records = [{"text": "2024-01-01"}, {"text": "line\u2028two\x85"}]
    assert written(tmp_path, records).table().to_pylist() == records


@pytest.mark.parametrize("parts", [([{"x": 1}, {"x": "a"}],), ([{"x": 1}], [{"x": "a"}]), ([{"x": 2**70}],)])
def test_what_is_no_table_is_said(tmp_path: Path, parts: tuple[list[dict[str, Any]], ...]) -> None:
    with pytest.raises(ValueError, match="the results are no one table"):
        written(tmp_path, *parts).table()


def test_an_error_may_have_any_words(tmp_path: Path) -> None:
    failure = {"id": "a", "position": 0, "error": {"task": "t", "message": "one\u2028two\x85three"}}
    output = written(tmp_path, [{"id": "b"}], errors=json.dumps(failure, ensure_ascii=False) + "\n")
    assert output.failures() == [failure]
