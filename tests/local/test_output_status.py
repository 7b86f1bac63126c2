"""`batchwright-worker status`: what lies in an output."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import pytest
from click.testing import CliRunner

from batchwright_worker.local.output_status import ranges
from batchwright_worker.local.status import command
from batchwright_worker.runner.storage.locations import locate
from batchwright_worker.runner.storage.output_lock import alone
from batchwright_worker.runner.storage.presence import Presence
from tests.local.conftest import MakeWorld, World


def status(world: World, *options: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(command, [str(world.output), "--json", *options])
    return result.exit_code, json.loads(result.stdout)


def test_of_a_complete_output(world: MakeWorld) -> None:
    made = world(10, bad=(2, 7))
    made.run()
    code, told = status(made)
    assert (code, told["state"], told["succeeded"], told["failed"]) == (3, "Complete", 8, 2)
    assert (told["shards"], told["missingShards"], told["job"]) == (3, "", "j")
    (reason,) = told["failureReasons"]
    assert (reason["task"], reason["items"], reason["firstItem"]) == ("v", 2, "i2")
    assert list(told["code"]["functions"]) == ["v"]
    made.write_items(10)
    made.run("--overwrite")
    assert status(made)[0] == 0
    text = CliRunner().invoke(command, [str(made.output)]).stdout
    assert "complete\njob j, all items of the input: 1 files" in text


def test_of_a_part_of_an_input(world: MakeWorld) -> None:
    made = world(10)
    made.run("--limit", "5", "--output", str(made.output))
    assert status(made)[1]["selection"] == {"kind": "Limit", "items": 5, "seed": 0}


def test_of_what_is_not_complete(world: MakeWorld) -> None:
    made = world(20)
    made.run()
    (made.output / "_manifest.json").unlink()
    for number in (1, 2, 4):
        (made.output / f"part-0000{number}.jsonl").unlink()
    code, told = status(made)
    assert (code, told["state"], told["missingShards"], told["succeeded"]) == (1, "Partial", "1-2,4", 8)
    folder = made.output / "_batchwright" / "tmp"
    folder.mkdir()
    (folder / "part-00001.jsonl.x.tmp").touch()  # a killed run's
    code, told = status(made)
    assert (code, told["state"], told["runs"]) == (1, "Partial", [])
    assert 0 <= told["lastWriteSeconds"] < 60


def test_of_what_a_run_is_at_work_on(world: MakeWorld) -> None:
    made = world(20)
    made.run()
    (made.output / "_manifest.json").unlink()
    output = locate(made.output.as_uri())
    present = Presence(output)
    present.begin()
    code, told = status(made)
    assert (code, told["state"], [run["process"] for run in told["runs"]]) == (1, "Running", [os.getpid()])
    assert f"at work: process {os.getpid()} of " in CliRunner().invoke(command, [str(made.output)]).stdout
    present.end()
    assert status(made)[1]["state"] == "Partial"
    with alone(output):
        assert status(made)[1]["state"] == "Running"


def test_damage_is_seen_by_size_and_by_digest(world: MakeWorld) -> None:
    made = world(10)
    made.run()
    part = made.output / "part-00001.jsonl"
    part.write_text(part.read_text().replace("4", "5", 1))
    assert status(made)[1]["state"] == "Complete"
    code, told = status(made, "--verify")
    assert (code, told["state"], told["damagedParts"]) == (42, "Damaged", ["part-00001.jsonl"])
    part.write_text("")
    assert status(made)[1]["state"] == "Damaged"


@pytest.mark.parametrize(("name", "state"), [("notes.txt", "Foreign"), (None, "Empty")])
def test_of_what_no_job_has_made(world: MakeWorld, name: str | None, state: str) -> None:
    made = world()
    if name:
        made.output.mkdir()
        (made.output / name).touch()
    assert (status(made)[0], status(made)[1]["state"]) == (42, state)


def test_it_writes_nothing(world: MakeWorld) -> None:
    made = world(10)
    made.run()
    before = {path: path.stat().st_mtime_ns for path in made.output.rglob("*")}
    time.sleep(0.01)
    status(made, "--verify")
    assert {path: path.stat().st_mtime_ns for path in made.output.rglob("*")} == before


def test_ranges_are_those_of_indexed_jobs() -> None:
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
