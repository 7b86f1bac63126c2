"""What holds for the whole suite: its order, and that it is the same every time."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess

import pytest
from hypothesis import settings

from e2e import leftovers

# CI must tell of a change, not of the day's luck: the examples of a test depend on the test alone. `make soak` searches
# freely (BATCHWRIGHT_HYPOTHESIS=search) and keeps in .hypothesis/ what it finds; a find becomes an @example.
# No deadline: how long an example takes depends on what else the machine does.
os.environ.setdefault("BATCHWRIGHT_WORKER_IMAGE", "localhost/batchwright-worker:dev")
"""Of operators that tests start where no agents are, whose image they would take (`process/worker_image`)."""
settings.register_profile("suite", derandomize=True, database=None, deadline=None)
settings.register_profile("search", print_blob=True, deadline=None)
settings.load_profile(os.environ.get("BATCHWRIGHT_HYPOTHESIS", "suite"))

WATCHING = pytest.StashKey[subprocess.Popen[bytes]]()


def pytest_configure(config: pytest.Config) -> None:
    """A suite that is terminated ends as one that is interrupted: its fixtures end the servers that they started. What
    a shell starts in the background ignores interrupts, and so would the programs that are tested by one."""
    config.stash[WATCHING] = leftovers.watch()  # who is killed ends nothing
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure(config: pytest.Config) -> None:
    """A process of `pytest -n` ends without what is to be done at its exit: the Kubernetes client's files with keys
    would stay in /tmp."""
    if hasattr(config, "workerinput"):
        atexit._run_exitfuncs()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes share the suite (`pytest -n`, by file) what takes longest goes first, or the others would
    wait for it at the end: the end-to-end story, then files with tests that start servers. Keeps the order within a
    file. (xdist by itself begins with the files of most tests, hence its `--no-loadscope-reorder`.)"""
    starts = {item.path for item in items if {"apiserver", "slow"} & {mark.name for mark in item.iter_markers()}}
    items.sort(key=lambda item: (item.path.parent.name != "e2e", item.path not in starts))
