"""Which runs are at work on an output now: each has a file of its own in `_batchwright/runs` while it makes parts.

On a file system its process holds the file's lock, so that one that was killed is told from one that works. On an
object store it writes the object again every BEAT_S, and one that has not for STALE_S is taken for gone.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from batchwright_worker.runner.storage.locations import WORK_DIR, Location, output_errors, remove
from batchwright_worker.runner.storage.output_lock import is_locked, lock_now

RUNS_DIR: Final = f"{WORK_DIR}/runs"
BEAT_S: Final = 20.0
STALE_S: Final = 60.0
_LAST_BEAT_S: Final = 10.0


class RunningRun(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """A run that makes parts; `started` in seconds since 1970."""

    host: str = "unknown"
    process: int = 0
    started: float = 0.0

    @property
    def title(self) -> str:
        """For people."""
        return f"process {self.process} of {self.host}"


class Presence:
    """This run, of which others know between `begin` and `end`. Blocking. Raises StepFailed as `output_errors`."""

    def __init__(self, output: Location) -> None:
        self._output = output
        self._name = f"{RUNS_DIR}/{secrets.token_hex(6)}.json"
        self._descriptor: int | None = None
        self._ended = threading.Event()
        self._beating: threading.Thread | None = None

    def begin(self) -> None:
        """Be known."""
        run = RunningRun(host=socket.gethostname(), process=os.getpid(), started=round(time.time(), 3))
        raw = msgspec.json.encode(run)
        with output_errors(self._output):
            if self._output.local:
                self._descriptor = _created(Path(self._output.at(self._name)))
                os.write(self._descriptor, raw)
                return
            self._output.fs.pipe_file(self._output.at(self._name), raw)
        self._beating = threading.Thread(target=self._beat, args=(raw,), name="presence", daemon=True)
        self._beating.start()

    def end(self) -> None:
        """Be known no longer; nothing where it never was."""
        if self._descriptor is not None:
            path, descriptor, self._descriptor = Path(self._output.at(self._name)), self._descriptor, None
            try:
                with output_errors(self._output):
                    path.unlink(missing_ok=True)
            finally:
                os.close(descriptor)
            with contextlib.suppress(OSError):  # others are there, or have removed it
                path.parent.rmdir()
        if self._beating is not None:
            self._ended.set()
            self._beating.join(_LAST_BEAT_S)
            self._beating = None
            remove(self._output, self._name)

    def _beat(self, raw: bytes) -> None:
        while not self._ended.wait(BEAT_S):
            with contextlib.suppress(OSError):  # tried again soon
                self._output.fs.pipe_file(self._output.at(self._name), raw)


def running(output: Location) -> list[RunningRun]:
    """The runs at work, the oldest first. Never writes. Raises StepFailed as `output_errors`."""
    with output_errors(output):
        found = [run for run in (_run(output, entry) for entry in _entries(output)) if run is not None]
    return sorted(found, key=lambda run: run.started)


def forget_the_dead(output: Location) -> None:
    """Remove what runs left that were killed. Raises StepFailed as `output_errors`."""
    with output_errors(output):
        for entry in _entries(output):
            if _run(output, entry) is None:
                remove(output, f"{RUNS_DIR}/{_name(entry)}")
        if output.local:
            with contextlib.suppress(OSError):
                Path(output.at(RUNS_DIR)).rmdir()


def _created(path: Path) -> int:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another one's end has removed the folder
            if (descriptor := lock_now(path)) is not None:
                return descriptor


def _entries(output: Location) -> Iterator[dict[str, object]]:
    try:
        yield from output.fs.ls(output.at(RUNS_DIR), detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return


def _name(entry: dict[str, object]) -> str:
    return str(entry["name"]).rpartition("/")[2]


def _run(output: Location, entry: dict[str, object]) -> RunningRun | None:
    """None if it is gone."""
    if output.local:
        try:
            if not is_locked(Path(str(entry["name"]))):
                return None
        except FileNotFoundError:
            return None
    elif _age_s(entry) > STALE_S:
        return None
    try:
        return msgspec.json.decode(output.read(f"{RUNS_DIR}/{_name(entry)}") or b"", type=RunningRun)
    except msgspec.MsgspecError:  # it has just begun, or just ended
        return RunningRun()


def _age_s(entry: dict[str, object]) -> float:
    """By the store's clock and ours."""
    written = entry.get("LastModified") or entry.get("created")
    if isinstance(written, str):
        written = datetime.datetime.fromisoformat(written)
    return time.time() - written.timestamp() if isinstance(written, datetime.datetime) else 0.0
