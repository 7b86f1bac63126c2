"""The hunt for tests that suppose a quick machine (`e2e/freezer.py`): whom it stops, and that it lets go of them."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from e2e.freezer import frozen, run

CHILD = [sys.executable, "-c", "import sys; sys.stdin.read()"]


@pytest.fixture
def process() -> Iterator[psutil.Process]:
    """Waits for the end of its input."""
    with subprocess.Popen(CHILD, stdin=subprocess.PIPE) as child:
        try:
            yield psutil.Process(child.pid)
        finally:
            child.kill()


def state(process: psutil.Process, options: int) -> bool:
    """Waits until the child has stopped (WUNTRACED) or goes on (WCONTINUED): whether it did."""
    _, status = os.waitpid(process.pid, options)
    return os.WIFSTOPPED(status) if options == os.WUNTRACED else os.WIFCONTINUED(status)


def interrupted(process: psutil.Process) -> None:
    assert state(process, os.WUNTRACED)
    raise KeyboardInterrupt


def test_it_stands_still_for_the_moment_and_goes_on(process: psutil.Process) -> None:
    with frozen([process]) as stopped:
        assert state(process, os.WUNTRACED)
        assert process.status() == psutil.STATUS_STOPPED
    assert stopped == [process]
    assert state(process, os.WCONTINUED)


def test_what_somebody_else_stopped_stays_stopped(process: psutil.Process) -> None:
    process.suspend()
    assert state(process, os.WUNTRACED)
    with frozen([process]) as stopped:
        pass
    assert stopped == []
    assert process.status() == psutil.STATUS_STOPPED


def test_a_fault_in_the_moment_leaves_nobody_stopped(process: psutil.Process) -> None:
    with pytest.raises(KeyboardInterrupt), frozen([process]):
        interrupted(process)
    assert state(process, os.WCONTINUED)


def test_a_process_that_has_ended_is_passed_over(process: psutil.Process) -> None:
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with frozen([process]) as stopped:
        assert stopped == []


def test_a_command_is_stopped_with_what_it_started_and_ends_as_by_itself() -> None:
    told: list[str] = []
    # Each process goes on when the other one has been stopped for a moment, which it is told by a signal.
    script = """
import signal, subprocess, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCONT])
child = len(sys.argv) > 1
status = 0 if child else subprocess.run([sys.executable, *sys.orig_argv[1:], "child"]).returncode
signal.sigwait([signal.SIGCONT])
sys.exit(status or 7 * (not child))
"""
    assert run([sys.executable, "-c", script], random.Random(1), 0.02, 0.06, told.append) == 7
    assert len(told) >= 2
