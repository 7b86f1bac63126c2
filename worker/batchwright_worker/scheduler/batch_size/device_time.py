"""Device time of one model as a function of the batch size, fitted online and robustly. Pure.

t(n) = a + b*n where a line describes it, else the median per size with straight lines between: a bigger batch is not
always a faster one (PP-OCRv4 recognition of width 960 on two CPU threads takes 21 ms per row alone, 46 ms in batches
of 32). The line is Theil and Sen's (the median of all slopes; Sen, JASA 63, 1968): single batches that were disturbed
do not move it. Seconds throughout.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median

KEPT = 48
"""Newest batches that the fit is made of; at 25 batches a second those of the last two seconds."""
REMEMBERED = 1000
"""A size that was firm once is remembered for this many batches: what was too slow is not tried again and again."""
REFIT_S = 0.2
"""New batches of sizes known before are read into the fit after this much device time (a fit takes up to 0.3 ms)."""
JUMP_BATCHES = 5
"""This many batches in a row off by `JUMP_RATIO` on the same side are a jump: what was before is forgotten."""
JUMP_RATIO = 1.25
FIRM = 3
"""This many batches of one size make a median to lean on."""
LINE_TOLERANCE = 0.15
"""Largest relative distance of a size's median from the line for the line to hold there."""
SLOWER = 0.03
"""More than what medians of a few batches scatter by on a busy machine's best days."""
OFF_SHARE = 0.25
"""From this share of firm sizes off the line on it does not describe the device (some are outliers always)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A frozen fit. `points` are (size, median seconds), ascending; `sure` once three batches were seen."""

    fixed_s: float
    per_row_s: float
    points: tuple[tuple[int, float], ...]
    linear: bool
    batches: int
    firm: tuple[tuple[int, float], ...] = ()
    """Those points that a few batches stand for."""

    @property
    def known(self) -> bool:
        return self.batches > 0

    @property
    def largest_seen(self) -> int:
        return self.points[-1][0] if self.points else 0

    def seconds(self, rows: float) -> float:
        """Predicted device time of a batch of `rows`; 0 when nothing was ever seen."""
        if self.linear or len(self.points) < 2:
            return self.fixed_s + self.per_row_s * rows
        return _between(self.points, rows)

    def rows_per_second(self, rows: float) -> float:
        """Predicted rows per second of device time at this size; 0 when nothing was ever seen."""
        seconds = self.seconds(rows)
        return rows / seconds if seconds > 0 else 0.0

    def largest_within(self, limit_s: float, most: int) -> int:
        """The largest size up to `most` that takes at most `limit_s`; 0 if one row takes longer."""
        if self.linear or len(self.points) < 2:
            return _largest_on_line(self, limit_s, most)
        fits = 0
        for rows in range(1, most + 1):
            if self.seconds(rows) > limit_s:
                break
            fits = rows
        return fits

    def plus(self, seconds: float) -> Curve:
        """The same with `seconds` more at every size."""
        points, firm = (tuple((rows, known + seconds) for rows, known in each) for each in (self.points, self.firm))
        return replace(self, fixed_s=self.fixed_s + seconds, points=points, firm=firm)

    def times(self, factor: float) -> Curve:
        """The same, `factor` times as slow."""
        points, firm = (tuple((rows, known * factor) for rows, known in each) for each in (self.points, self.firm))
        return replace(self, fixed_s=self.fixed_s * factor, per_row_s=self.per_row_s * factor, points=points, firm=firm)

    def knee(self, most: int, gain: float = 0.02) -> int:
        """The measured size from which rows per second stop rising by `gain`; `most` where they still rise."""
        if self.linear or not self.points:
            return self._measured_best(most)
        best_rows, best_rate = 1, self.rows_per_second(1)
        for rows, seconds in self.points:
            rate = rows / seconds if seconds > 0 else 0.0
            if rate > best_rate * (1 + gain):
                best_rows, best_rate = rows, rate
        if best_rows >= self.largest_seen:
            return most
        return best_rows

    def _measured_best(self, most: int) -> int:
        """On a line more rows are always faster, by less and less: the medians know better where the largest size is
        slower than the best one by SLOWER (caches overflow by then)."""
        rates = [(rows / seconds, rows) for rows, seconds in self.firm if seconds > 0]
        best_rate, best_rows = max(rates, default=(0.0, most))
        return best_rows if rates and rates[-1][0] < best_rate * (1 - SLOWER) else most


UNKNOWN = Curve(fixed_s=0.0, per_row_s=0.0, points=(), linear=True, batches=0)


@dataclass(slots=True)
class DeviceTime:
    """The online fit of one model or shape: every batch goes in by `observe`, `curve` is the result."""

    samples: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=KEPT))
    remembered: dict[int, tuple[float, int]] = field(default_factory=dict)
    """Sizes that were firm: the median, and `count` then."""
    count: int = 0
    off_side: int = 0
    """Batches in a row that were slower (positive) or faster (negative) than predicted by JUMP_RATIO."""
    _curve: Curve = UNKNOWN
    _unread: int = 0
    _unread_s: float = 0.0

    def observe(self, rows: int, seconds: float) -> bool:
        """One batch of `rows` took `seconds` on the device; is the `curve` another one since?"""
        before = self._curve
        self._count_side(rows, seconds)
        self.count += 1
        self.samples.append((rows, seconds))
        if abs(self.off_side) >= JUMP_BATCHES:
            newest = list(self.samples)[-abs(self.off_side) :]
            self.samples.clear()
            self.remembered.clear()
            self.samples.extend(newest)
            self.off_side = 0
            self._unread = KEPT
        is_new = all(rows != size for size, _ in self._curve.points)
        self._unread += KEPT if is_new else 1
        self._unread_s += seconds
        return self.curve is not before

    def copy(self) -> DeviceTime:
        """A copy that goes its own way."""
        samples = deque(self.samples, maxlen=KEPT)
        return replace(self, samples=samples, remembered=dict(self.remembered))

    @property
    def curve(self) -> Curve:
        """The fit of the batches remembered; it may lack the newest eighth of those of known sizes, or more of them
        while they took less than REFIT_S together (at first as many as it has: the first batches are often slow)."""
        seen = len(self.samples)
        many = seen if seen == KEPT else seen // 2
        if self._unread > seen // 8 and (self._unread_s >= REFIT_S or self._unread >= many):
            self._remember()
            self._curve = fit(self.samples, {rows: seconds for rows, (seconds, _) in self.remembered.items()})
            self._unread, self._unread_s = 0, 0.0
        return self._curve

    def _remember(self) -> None:
        oldest = self.count - REMEMBERED
        for rows in [rows for rows, (_, then) in self.remembered.items() if then < oldest]:
            del self.remembered[rows]
        for rows, seen in _by_size(self.samples).items():
            if len(seen) >= FIRM:
                self.remembered[rows] = (median(seen), self.count)

    def _count_side(self, rows: int, seconds: float) -> None:
        curve = self.curve
        if curve.batches < JUMP_BATCHES:
            self.off_side = 0
            return
        predicted = curve.seconds(rows)
        if seconds > predicted * JUMP_RATIO:
            self.off_side = max(self.off_side, 0) + 1
        elif seconds < predicted / JUMP_RATIO:
            self.off_side = min(self.off_side, 0) - 1
        else:
            self.off_side = 0


def fit(samples: Iterable[tuple[int, float]], remembered: Mapping[int, float] | None = None) -> Curve:
    """Theil-Sen line through the medians per size; `linear` is False where the medians are not on it. `remembered`
    medians stand for sizes that the samples lack."""
    by_size = _by_size(samples)
    if not by_size:
        return UNKNOWN
    medians = dict(remembered or {})
    for rows, seen in by_size.items():
        if len(seen) >= FIRM or rows not in medians:
            medians[rows] = median(seen)
    points = tuple(sorted(medians.items()))
    fixed_s, per_row_s = _line(points)
    firm = [(rows, seconds) for rows, seconds in points if len(by_size.get(rows, ())) >= FIRM or rows not in by_size]
    off = [rows for rows, seconds in firm if abs(fixed_s + per_row_s * rows - seconds) > LINE_TOLERANCE * seconds]
    linear = not off or len(off) < OFF_SHARE * len(firm)
    if not linear and len(firm) >= 2:
        points = tuple(firm)
    batches = sum(len(seen) for seen in by_size.values())
    return Curve(fixed_s=fixed_s, per_row_s=per_row_s, points=points, linear=linear, batches=batches, firm=tuple(firm))


def _by_size(samples: Iterable[tuple[int, float]]) -> dict[int, list[float]]:
    by_size: dict[int, list[float]] = {}
    for rows, seconds in samples:
        by_size.setdefault(rows, []).append(seconds)
    return by_size


def _line(points: tuple[tuple[int, float], ...]) -> tuple[float, float]:
    if len(points) == 1:
        # One size says nothing about the slope: half fixed, half per row errs by at most 2 either way.
        rows, seconds = points[0]
        return seconds / 2, seconds / 2 / rows
    slopes = [
        (later - earlier) / (larger - smaller)
        for i, (smaller, earlier) in enumerate(points)
        for larger, later in points[i + 1 :]
    ]
    per_row_s = max(0.0, median(slopes))
    fixed_s = max(0.0, median(seconds - per_row_s * rows for rows, seconds in points))
    return fixed_s, per_row_s


def _between(points: tuple[tuple[int, float], ...], rows: float) -> float:
    """Straight lines between the points; below the first one its time, above the last one in proportion."""
    if rows <= points[0][0]:
        return points[0][1]
    for (smaller, earlier), (larger, later) in pairwise(points):
        if rows <= larger:
            return earlier + (later - earlier) * (rows - smaller) / (larger - smaller)
    last_rows, last_seconds = points[-1]
    return last_seconds * rows / last_rows


def _largest_on_line(curve: Curve, limit_s: float, most: int) -> int:
    if curve.per_row_s <= 0:
        return most if curve.fixed_s <= limit_s else 0
    return max(0, min(most, int((limit_s - curve.fixed_s) / curve.per_row_s + 1e-9)))
