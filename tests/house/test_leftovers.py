"""A suite that is killed leaves no server behind (`e2e/leftovers.py`)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

SUITE = """
import subprocess, sys
from e2e import leftovers
pipe = int(sys.argv[1])
watching = leftovers.watch(grace_s=0.0)
grandchild = "import subprocess, sys; subprocess.Popen(['sleep', '600'], pass_fds=[int(sys.argv[1])])"
subprocess.run([sys.executable, "-c", grandchild, str(pipe)], pass_fds=[pipe], start_new_session=True, check=True)
print("started", flush=True)
sys.stdin.read()
"""


def test_who_kills_a_suite_ends_what_it_had_started_and_nobody_else() -> None:
    held, pipe = os.pipe()  # the server has its other end for as long as it lives
    root = Path(__file__).resolve().parents[2]
    with (
        subprocess.Popen(["sleep", "600"]) as other,
        subprocess.Popen(
            [sys.executable, "-c", SUITE, str(pipe)],
            cwd=root, pass_fds=[pipe], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as suite,
    ):  # fmt: skip
        try:
            os.close(pipe)
            assert suite.stdout is not None
            assert suite.stderr is not None
            assert suite.stdout.readline() == "started\n"
            suite.send_signal(signal.SIGKILL)
            assert "sleep 600" in suite.stderr.readline()
            assert os.read(held, 1) == b"", "nobody has its other end"
            assert other.poll() is None
        finally:
            os.close(held)
            suite.kill()
            other.kill()
