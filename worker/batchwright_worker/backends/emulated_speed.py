"""How fast the emulated device is: as the artifact says, or as a file says that may change while it serves.

The file is for benches and tests alone: they name it in ENV_EMULATED_SPEED, and replace it (rename a new one over it)
to let the device become slower or faster in mid-run. It is JSON,

    {"fixedMicroseconds": 20000, "perRowMicroseconds": 4000}

and it applies to every emulated model of the process from the next batch on. No file, no change.
"""

from __future__ import annotations

import os
from typing import Final

import msgspec

ENV_EMULATED_SPEED: Final = "BATCHWRIGHT_EMULATED_SPEED_FILE"


class EmulatedSpeed(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A batch of n rows takes fixed + n * per_row microseconds."""

    fixed_microseconds: int
    per_row_microseconds: int

    def seconds(self, rows: int) -> float:
        """Of a batch."""
        return (self.fixed_microseconds + rows * self.per_row_microseconds) / 1e6


class SpeedSource:
    """The artifact's speed until the file says something else. Raises ValueError for a file that says nothing valid."""

    def __init__(self, speed: EmulatedSpeed, path: str | None = None) -> None:
        self._speed = speed
        self._path = os.environ.get(ENV_EMULATED_SPEED, "") if path is None else path
        self._seen = (0, 0)

    def now(self) -> EmulatedSpeed:
        """One `stat` where a file is named, nothing otherwise."""
        if self._path:
            self._look()
        return self._speed

    def _look(self) -> None:
        try:
            found = os.stat(self._path)  # noqa: PTH116 - in the path of every batch
        except FileNotFoundError:
            return
        seen = (found.st_ino, found.st_mtime_ns)
        if seen == self._seen:
            return
        with open(self._path, "rb") as file:  # noqa: PTH123
            text = file.read()
        try:
            self._speed = msgspec.json.decode(text, type=EmulatedSpeed)
        except msgspec.MsgspecError as error:
            raise ValueError(
                f"{self._path} (named by {ENV_EMULATED_SPEED}) is no speed: {error}; "
                'write {"fixedMicroseconds": 10000, "perRowMicroseconds": 2000}'
            ) from error
        self._seen = seen
