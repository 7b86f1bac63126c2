"""Runs a command and stops random processes below it for moments, as a starved or suspended machine does.

    python -m e2e.freezer --seed 7 -- pytest -q tests/runner

A test that fails so, and not without it, supposes that something is ready, ordered or quick: it should wait for the
event that it means. Processes that somebody else stopped are left alone.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import click
import psutil

SHORTEST_S = 0.05
ALL_AT_ONCE = 0.2
"""How often the whole tree stands still, as on a machine that is suspended; else it is one process."""


@contextmanager
def frozen(processes: Sequence[psutil.Process]) -> Iterator[list[psutil.Process]]:
    """Stopped on entry, going on afterwards; those alone that ran: what somebody else stopped stays as it is."""
    stopped: list[psutil.Process] = []
    try:
        for each in processes:
            with suppress(psutil.Error):
                if each.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP, psutil.STATUS_ZOMBIE):
                    each.suspend()
                    stopped.append(each)
        yield stopped
    finally:
        for each in stopped:
            with suppress(psutil.Error):
                each.resume()


def run(
    command: Sequence[str], chance: random.Random, mean_s: float, longest_s: float, tell: Callable[[str], None]
) -> int:
    """The command's exit status. Between two moments it runs for `mean_s` on average; a moment lasts for `longest_s` at
    most."""
    with subprocess.Popen(command) as process:
        root = psutil.Process(process.pid)
        try:
            while not _ends_within(process, chance.expovariate(1 / mean_s)):
                with suppress(psutil.NoSuchProcess):
                    tree = [root, *root.children(recursive=True)]
                    picked = tree if chance.random() < ALL_AT_ONCE else chance.sample(tree, 1)
                    lasts = chance.uniform(SHORTEST_S, longest_s)
                    with frozen(picked) as stopped:
                        tell(f"{time.strftime('%T')} {lasts:.2f} s {[each.pid for each in stopped]} {_words(stopped)}")
                        time.sleep(lasts)
        except KeyboardInterrupt:
            process.terminate()
        return process.wait()


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is not None


def _words(stopped: Sequence[psutil.Process]) -> str:
    """What the first of them is."""
    with suppress(psutil.Error, IndexError):
        return " ".join(stopped[0].cmdline())[:120]
    return ""


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choices; the machine adds its own.")
@click.option("--mean", "mean_s", default=0.7, show_default=True, help="Seconds between two moments, on average.")
@click.option("--longest", "longest_s", default=1.5, show_default=True, help="Seconds that a moment lasts at most.")
@click.option("--log", type=click.Path(dir_okay=False, path_type=Path), help="A file: what was stopped, line by line.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def main(seed: int, mean_s: float, longest_s: float, log: Path | None, command: tuple[str, ...]) -> None:
    """Run COMMAND and stop processes below it for moments; exits as COMMAND does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (log or Path(os.devnull)).open("w") as told:
        tell = partial(print, file=told, flush=True)
        sys.exit(run(command, random.Random(seed), mean_s, longest_s, tell))  # noqa: S311 - no secret


if __name__ == "__main__":
    main()
