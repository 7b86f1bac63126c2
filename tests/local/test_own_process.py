"""`batchwright-worker run` as a process among others: its standard output is for programs, and a terminal may close."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

TALKER = """
import os
print("imported")
os.write(1, b"imported, without Python\\n")

def talks(inputs):
    print("called")
    os.write(1, b"called, without Python\\n")
    return 1
"""
SLEEPER = """
import time
from pathlib import Path

def sleeps(inputs, path):
    Path(path).touch()
    time.sleep(600)
"""

FROM_A_TERMINAL = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""What runs under `nohup`, as this suite may, goes on when its terminal closes."""


def command(folder: Path, module: str, function: str, **args: Any) -> list[str]:
    """A job of one CPU task over two items."""
    (folder / "functions.py").write_text(module)
    (folder / "in.jsonl").write_text('{"id":"a"}\n{"id":"b"}\n')
    spec = {
        "input": {"uri": (folder / "in.jsonl").as_uri(), "format": "jsonl"},
        "output": {"uri": (folder / "out").as_uri()},
        "tasks": [{"name": "t", "cpu": {"function": f"functions:{function}", "args": args}}],
        "runner": {"cpuWorkers": 1},
    }
    head = {"apiVersion": "batchwright.dev/v1alpha1", "kind": "InferenceJob", "metadata": {"name": "j"}}
    (folder / "job.yaml").write_text(yaml.safe_dump(head | {"spec": spec}))
    return [sys.executable, "-m", "batchwright_worker", "run", "--quiet", "--json", "-f", str(folder / "job.yaml")]


def test_what_functions_print_is_not_on_standard_output(tmp_path: Path) -> None:
    ran = subprocess.run(command(tmp_path, TALKER, "talks"), capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["succeeded"] == 2
    assert {"imported", "imported, without Python", "called", "called, without Python"} <= set(ran.stderr.splitlines())


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_signal_ends_it_and_all_that_it_started(tmp_path: Path, number: signal.Signals) -> None:
    started, environment = tmp_path / "started", {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    if number == signal.SIGHUP:  # too long for the name of a socket below it
        environment["TMPDIR"] = str(tmp_path / "tmp" / ("long" * 30))
        Path(environment["TMPDIR"]).mkdir()
    program = [sys.executable, "-c", FROM_A_TERMINAL, *command(tmp_path, SLEEPER, "sleeps", path=str(started))[1:]]
    with subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as run:
        try:
            until = time.monotonic() + 120
            while not started.exists():
                assert run.poll() is None, run.communicate()
                assert time.monotonic() < until
                time.sleep(0.02)
            run.send_signal(number)
            told, words = run.communicate(timeout=60)  # the end of the pipes is that of all processes
        finally:
            run.kill()
    assert run.returncode == 143, words
    assert json.loads(told)["reason"] == "Terminated"
    assert list(Path(environment["TMPDIR"]).iterdir()) == []
    assert list(Path("/tmp").glob(f"bw-{run.pid}-*")) == []  # where it went, as its TMPDIR is too long
