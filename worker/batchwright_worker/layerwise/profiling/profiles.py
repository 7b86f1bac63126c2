"""What was measured of a network's units on a processor, kept on disk per (model, processor, batch size).

`compute_s` per unit is a median; a fetch of s bytes takes `latency_s + s / bytes_per_second` (fitted over the sizes of
the units); `compute_slowdown` and `fetch_slowdown` say how much longer each takes while the other engine works.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from batchwright_worker.host.machine import processor_name
from batchwright_worker.layerwise.networks.units import replace_file

__all__ = [
    "Profile",
    "Summary",
    "cache_folder",
    "fit_fetch",
    "processor_name",
    "read_profile",
    "write_profile",
]

_LOG = logging.getLogger(__name__)
ENV_CACHE: Final = "BATCHWRIGHT_CACHE_DIR"


class Profile(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One network at one batch size on one processor. Times in seconds; `runs` is how many each median is of."""

    digest: str
    model: str
    processor: str
    rows: int
    compute_s: list[float]
    bytes: list[int]
    latency_s: float
    bytes_per_second: float
    compute_slowdown: float = 1.0
    fetch_slowdown: float = 1.0
    runs: int = 0
    spread: float = 0.0
    """How much the compute times varied: the quartiles' distance over the medians, over all units."""

    def fetch_s(self, size: int) -> float:
        """Planned time of a fetch, alone; nothing is fetched for a unit without weights."""
        return self.latency_s + size / self.bytes_per_second if size else 0.0

    @property
    def total_compute_s(self) -> float:
        return sum(self.compute_s)

    @property
    def total_fetch_s(self) -> float:
        return sum(map(self.fetch_s, self.bytes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A profile in one line."""

    profile: Profile

    def __str__(self) -> str:
        profile = self.profile
        bound = "compute" if profile.total_compute_s >= profile.total_fetch_s else "memory"
        compute_ms, fetch_ms = profile.total_compute_s * 1e3, profile.total_fetch_s * 1e3
        return (
            f"{len(profile.bytes)} units, {sum(profile.bytes) / 1e6:.1f} MB, compute {compute_ms:.1f} ms, "
            f"fetch {fetch_ms:.1f} ms at {profile.rows} rows: bound by {bound}"
        )


def fit_fetch(sizes: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """(latency in s, bytes per second) of w = latency + s / bandwidth: least squares, the latency not below 0.

    With one size only, or times that do not grow with it, everything is bandwidth.
    """
    count = len(sizes)
    mean_size, mean_time = sum(sizes) / count, sum(seconds) / count
    spread = sum((size - mean_size) ** 2 for size in sizes)
    together = sum((size - mean_size) * (time - mean_time) for size, time in zip(sizes, seconds, strict=True))
    slope = together / spread if spread else 0.0
    latency = mean_time - slope * mean_size
    if slope <= 0 or latency < 0:
        return 0.0, sum(sizes) / max(sum(seconds), 1e-9)
    return latency, 1 / slope


def cache_folder() -> Path:
    """Where prepared networks and profiles lie: what ENV_CACHE names, else the user's cache, else the temporary folder
    (in a pod with a read-only root)."""
    given = os.environ.get(ENV_CACHE)
    if given:
        return Path(given)
    temporary = Path(tempfile.gettempdir()) / "batchwright-layerwise"
    try:
        user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "batchwright" / "layerwise"
        user.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home, or none to write to
        return temporary
    return user if os.access(user, os.W_OK) else temporary


def read_profile(folder: Path, processor: str, rows: int) -> Profile | None:
    """Of a prepared network's folder; None where there is none yet."""
    try:
        return msgspec.json.decode(_path(folder, processor, rows).read_bytes(), type=Profile)
    except (OSError, msgspec.DecodeError):
        return None


def write_profile(folder: Path, profile: Profile) -> None:
    """Replaces an older one. Where it cannot be written (the disk is full, the folder gone) it will be measured anew
    some time: nothing fails for that."""
    path = _path(folder, profile.processor, profile.rows)
    try:
        replace_file(path, msgspec.json.format(msgspec.json.encode(profile)))
    except OSError as error:
        _LOG.warning("what was measured of %s is not kept: %s", profile.model, error)


def _path(folder: Path, processor: str, rows: int) -> Path:
    word = "".join(sign if sign.isalnum() else "-" for sign in processor)
    return folder / f"profile-{word}-{rows}.json"
