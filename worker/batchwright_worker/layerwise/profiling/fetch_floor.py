"""The smallest unit that is worth a fetch of its own, by what starting a fetch takes on this machine.

A unit's fetch takes latency + bytes / bandwidth, and is to take `LATENCIES` times its latency at least; smaller ones
are put together. The latency is that of a read (or a copy) and of handing the unit from one engine's thread to the
other's.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from batchwright_worker.layerwise.networks.units import replace_file

__all__ = ["LATENCIES", "PROBE_BYTES", "FetchFloor", "fetch_floor", "measured_floor"]

_LOG = logging.getLogger(__name__)
LATENCIES: Final = 3
_SIZES: Final = (16 << 10, 1 << 20, 4 << 20)
PROBE_BYTES: Final = 64 << 20
"""What fetches are made from and to, in turn: processors' caches hold less."""
_TRIES: Final = 9
_HANDED_OVER: Final = 60
_LEAST: Final = 16 << 10
_MOST: Final = 64 << 20

Fetch = Callable[[int, int], float]
"""Fetches so many bytes from an offset of PROBE_BYTES on, into memory of its own; the seconds that it took."""


class FetchFloor(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """As measured, and what follows from it."""

    latency_s: float
    bytes_per_second: float

    @property
    def least_bytes(self) -> int:
        """A power of two: networks are prepared by it, and a measurement that differs a little is to give the same."""
        wanted = (LATENCIES - 1) * self.latency_s * self.bytes_per_second
        return min(max(1 << round(math.log2(max(wanted, 1.0))), _LEAST), _MOST)


def fetch_floor(folder: Path, processor: str, probe: Callable[[], AbstractContextManager[Fetch]]) -> FetchFloor:
    """Of this processor, kept in `folder`; measured where it is not there."""
    word = "".join(sign if sign.isalnum() else "-" for sign in processor)
    path = folder / f"fetch-{word}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=FetchFloor)
    except (OSError, msgspec.DecodeError):
        pass
    with probe() as fetch:
        found = measured_floor(fetch)
    _LOG.info("a fetch takes %.0f us and 1 s per %.0f MB", found.latency_s * 1e6, found.bytes_per_second / 1e6)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(path, msgspec.json.encode(found))
    return found


def measured_floor(fetch: Fetch, handed_over_s: float | None = None) -> FetchFloor:
    """The fastest of some fetches per size: what others do on the machine can only slow them down. `handed_over_s`:
    what it takes to wake another thread; None: measured."""

    def fastest(size: int) -> float:
        return min(fetch(size, number * _SIZES[-1]) for number in range(_TRIES))

    for begin in range(0, PROBE_BYTES, _SIZES[-1]):
        fetch(_SIZES[-1], begin)  # memory that is used for the first time
    small, large, largest = map(fastest, _SIZES)
    pace = max((largest - large) / (_SIZES[2] - _SIZES[1]), 1e-13)
    latency = max(0.0, small - _SIZES[0] * pace)
    return FetchFloor(
        latency_s=latency + (_handed_over_s() if handed_over_s is None else handed_over_s), bytes_per_second=1 / pace
    )


def _handed_over_s() -> float:
    """From one thread to another that waits for it, by a condition as the executor does; the lower quartile."""
    changed, turn, times = threading.Condition(), [0], []

    def answer() -> None:
        for _ in range(_HANDED_OVER):
            with changed:
                changed.wait_for(lambda: turn[0] == 1)
                turn[0] = 0
                changed.notify()

    other = threading.Thread(target=answer, name="layerwise hand-over", daemon=True)
    other.start()
    for _ in range(_HANDED_OVER):
        begin = time.perf_counter()
        with changed:
            turn[0] = 1
            changed.notify()
            changed.wait_for(lambda: turn[0] == 0)
        times.append((time.perf_counter() - begin) / 2)
    other.join()
    return float(np.percentile(times, 25))
