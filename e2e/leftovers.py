"""Ends what a test run has started and not ended, once the run itself is gone, however it went.

`python -m e2e.leftovers MARK GRACE_S` waits for the end of its standard input, which is a pipe of the run's. Processes
that have MARK in their environment, as whatever the run started has, then get GRACE_S seconds to end by themselves;
the others are named and ended.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

VARIABLE = "BATCHWRIGHT_TEST_RUN"
_TIMES = 100
"""How often it ends them: who is just being ended may still start another one."""
_LOOK_S = 0.05


def watch(grace_s: float = 3.0) -> subprocess.Popen[bytes]:
    """Marks all that this process starts from now on; keep the result for as long as it may live."""
    os.environ[VARIABLE] = mark = f"{os.getpid()}-{secrets.token_hex(8)}"
    others = {name: value for name, value in os.environ.items() if name != VARIABLE}
    command = [sys.executable, "-m", "e2e.leftovers", mark, str(grace_s)]
    root = Path(__file__).resolve().parents[1]
    return subprocess.Popen(command, stdin=subprocess.PIPE, cwd=root, env=others, start_new_session=True)


def main(mark: str, grace_s: float) -> None:
    """Until nothing is left."""
    sys.stdin.buffer.read()
    end = time.monotonic() + grace_s
    while time.monotonic() < end and any(_marked(mark)):
        time.sleep(_LOOK_S)
    named = set[int]()
    for _ in range(_TIMES):
        found = dict(_marked(mark))
        for pid, command in found.items():
            if pid not in named:
                named.add(pid)
                print(f"left behind by the tests, and ended: {pid} {command}", file=sys.stderr)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            return
        time.sleep(_LOOK_S)


def _marked(mark: str) -> Iterator[tuple[int, str]]:
    wanted = f"{VARIABLE}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is somebody else's
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield int(folder.name), command.strip()[:200]


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
