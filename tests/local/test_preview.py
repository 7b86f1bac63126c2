"""`run --plan`: everything is checked and tried, and nothing is written."""

from __future__ import annotations

from typing import Any

from tests.local.conftest import FIELD_V, MakeWorld, World
from tests.runner.serving_rig import deployment


def files(world: World) -> dict[str, int]:
    """Everything in the folder with its time of change."""
    return {str(path): path.stat().st_mtime_ns for path in world.folder.rglob("*")}


def test_the_plan_shows_the_first_results_and_writes_nothing(world: MakeWorld) -> None:
    made = world(10)
    (made.folder / "notes.md").write_text("x")
    made.spec["input"]["uri"] = made.folder.as_uri()
    made.write_manifest()
    before = files(made)
    status, told = made.run("--plan")
    assert files(made).keys() == before.keys()
    assert (status, told["reason"], told["items"], told["shards"]) == (0, "Planned", 10, 3)
    assert told["firstRecords"] == [{"id": f"i{n}", "v": n} for n in range(3)]
    assert (told["outputState"], told["filesLeftOut"]) == ("free", 2)
    assert told["tasks"][0]["args"] == FIELD_V["cpu"]["args"]  # type: ignore[index]
    assert told["estimate"]["measuredItems"] > 3
    status, text = made.text("--plan")
    assert status == 0
    assert "10 items of 1 files" in text
    assert '{"id": "i0", "v": 0}' in text
    assert "nothing was written" in text


def test_failures_of_the_first_items_are_shown_and_tell(world: MakeWorld) -> None:
    made = world(10, bad=(1,))
    status, told = made.run("--plan")
    assert (status, told["reason"]) == (3, "FailedItems")
    assert [record["id"] for record in told["firstRecords"]] == ["i0", "i2"]
    assert told["firstErrors"][0]["item"] == "i1"


def test_what_would_be_refused_is_refused(world: MakeWorld) -> None:
    made = world(4)
    made.output.mkdir()
    (made.output / "mine.txt").write_text("x")
    assert made.run("--plan")[1]["reason"] == "OutputInUse"
    (made.output / "mine.txt").unlink()
    made.spec["tasks"] = [{"name": "v", "cpu": {"function": "json-fields", "args": {"feilds": ["v"]}}}]
    assert made.run("--plan")[1]["reason"] == "InvalidTask"


def test_the_state_of_the_output_is_told(world: MakeWorld) -> None:
    made = world(10)
    made.run()
    assert "complete already" in made.run("--plan")[1]["outputState"]
    (made.output / "_manifest.json").unlink()
    (made.output / "part-00001.jsonl").unlink()
    assert made.run("--plan")[1]["outputState"].startswith("2 of 3 parts stand")
    assert not (made.output / "part-00001.jsonl").exists()


def test_models_are_asked_what_they_take(world: MakeWorld) -> None:
    made = world(5)
    made.documents = [deployment()]
    model: dict[str, Any] = {"name": "m", "model": {"deployment": "emu", "model": "m"}, "dependsOn": ["x"]}
    made.spec["tasks"] = [{"name": "x", "cpu": {"function": "json-fields", "args": {"fields": ["x"]}}}, model]
    (made.folder / "in.jsonl").write_text('{"id": "a", "x": [1, 5, 2]}\n{"id": "b", "x": "text"}\n')
    status, told = made.run("--plan")
    assert (status, told["tasks"][1]["inputs"], told["tasks"][1]["makes"]) == (
        3, ["x: FP32 [-1]"], ["argmax: INT64 []"],
    )  # fmt: skip
    assert told["firstRecords"] == [{"id": "a", "m": 1}]
    assert "input 'x'" in told["firstErrors"][0]["message"]
    assert not made.output.exists()
