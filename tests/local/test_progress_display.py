"""Rate, time to the end and deadline while a job runs."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from batchwright_worker.local import progress_display
from batchwright_worker.local.progress_display import Counts, Rate, line
from batchwright_worker.local.run import command
from tests.local.conftest import MakeWorld, World


def test_the_rate_is_that_of_the_last_minute() -> None:
    rate = Rate()
    assert rate.per_second(0, 0.0) is None
    assert rate.per_second(100, 10.0) == 10.0
    rate.per_second(200, 60.0)
    assert rate.per_second(800, 120.0) == 10.0  # since 60 s; the sample at 10 s is too old


def test_a_line_tells_rate_rest_and_what_is_wrong() -> None:
    counts = Counts(done=200, failed=3, waiting_for=["emu"], left_s=30.0)
    assert line("j", 1000, counts, 10.0) == (
        "j: 200 of 1000 items (20 %), 10 items/s, 1 min 20 s left, 3 failed, waiting for emu, "
        "activeDeadlineSeconds ends in 30 s, before the job"
    )
    assert line("j", 1000, Counts(done=0, failed=0), None) == "j: 0 of 1000 items (0 %)"


def test_a_deadline_that_will_be_kept_is_not_told() -> None:
    assert "Deadline" not in line("j", 1000, Counts(done=200, failed=0, left_s=81.0), 10.0)


def slow(world: World) -> None:
    (world.folder / "slow_for_progress.py").write_text(
        "import time\ndef f(inputs):\n    time.sleep(0.05)\n    return inputs['item']['data']['v']\n"
    )
    world.spec["tasks"] = [{"name": "v", "cpu": {"function": "slow_for_progress:f"}}]
    world.write_manifest()


def test_off_a_terminal_there_are_lines(world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_display, "LINE_SECONDS", 0.2)
    made = world(40)
    slow(made)
    said = CliRunner().invoke(command, ["-f", str(made.manifest)]).stderr.splitlines()
    assert said
    assert all(each.startswith("j: ") and " of 40 items" in each for each in said)
    assert re.search(r"items/s, \d+ s left", said[-1])
    made.output.rename(made.folder / "before")
    assert not CliRunner().invoke(command, ["-f", str(made.manifest), "--quiet"]).stderr


@pytest.mark.slow
def test_on_a_terminal_there_is_a_bar_with_rate_and_time_left(world: MakeWorld) -> None:
    made = world(60)
    slow(made)
    ours, theirs = pty.openpty()
    arguments = [sys.executable, "-m", "batchwright_worker", "run", "-f", str(made.manifest)]
    with subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=theirs, env={**os.environ, "COLUMNS": "120"}
    ) as run:
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # the other side is closed
            while block := os.read(ours, 1 << 16):
                said += block
    os.close(ours)
    assert run.returncode == 0
    assert re.search(rb"items/s, \d+ s left", said)
    assert b"60/60" in said
