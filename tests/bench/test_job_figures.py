"""What the bench of jobs reads from its runs; and the bench itself, with few items."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.bench.jobs.figures import JobRun, bars
from e2e.bench.jobs.processes import Watched

START = JobRun(items=1000, seconds=1.0, cpu_s={"runner": 2.0})
ONE = JobRun(items=101_000, seconds=10.0, cpu_s={"runner": 5.0}, mean_batch=20.0)


def test_cpu_is_that_of_the_items_without_the_start() -> None:
    assert ONE.cpu_us(START) == pytest.approx(30.0)
    assert ONE.cpu_us(START, "pool") == 0.0


def test_the_device_is_idle_when_no_batch_runs() -> None:
    assert ONE.idle == pytest.approx(1 - (101_000 / 20 * 1e-3 + 101_000 * 0.05e-3) / 10.0)


def test_each_bar_is_there_when_its_runs_are() -> None:
    three = JobRun(items=101_000, seconds=11.0, cpu_s={"runner": 8.0})
    script = JobRun(items=101_000, seconds=8.0)
    small = JobRun(items=101_000, seconds=11.5)
    told = {bar.name: bar for bar in bars(START, {"one": ONE, "three": three, "small-shards": small, "script": script})}
    assert told["runner CPU, a further task"].measured == pytest.approx(15.0)
    assert told["wall time beside the script's"].passed
    assert not told["shards of 1,000 beside one"].passed
    assert {bar.name for bar in bars(START, {"script": script})} == set()


def test_memory_is_level_once_it_is_warm() -> None:
    assert Watched(resident=[10, 90, 100, 100, 105, 100]).memory_growth == pytest.approx(0.05)


@pytest.mark.slow
def test_a_job_and_the_script_write_the_same_records(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "e2e.bench", "jobs", "--items", "1500", "--json", str(tmp_path / "told.json")]
    command += ["--only", "script,three"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads((tmp_path / "told.json").read_text())
    rows = next(record["rows"] for record in told["records"] if record["header"][0] == "run")
    assert [row[0] for row in rows] == ["script", "three"]
