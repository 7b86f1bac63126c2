"""Admission by deadline and the largest batch whose members can all be in time. Pure.

The bound under overload: with offered rate r, target L and device time a + b*n the largest batch whose members can all
be in time is n* = (L - a) / (b + 1/r), because it gathers for n/r seconds and runs a + b*n before its first row is
answered. Acceptance gives way under overload, never the size of the batch: smaller batches would serve fewer rows, and
the queue would grow. Seconds and rows per second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from msgspec import Struct

from batchwright_worker.scheduler.batch_size.device_time import Curve

RATE_MEMORY_S = 0.5
"""The offered rate follows a burst within a second and does not follow the scatter of a few arrivals."""
COARSE = 1 / 256
"""Share of the memory within which arrivals count as simultaneous: an estimate need not decay with every one."""


@dataclass(slots=True)
class DecayingRate:
    """Rows per second that arrive (refused ones too), decaying with a time constant of `memory_s`."""

    memory_s: float = RATE_MEMORY_S
    weight: float = 0.0
    last: float = 0.0
    first: float = math.inf

    def add(self, rows: float, now: float) -> None:
        if now - self.last > self.memory_s * COARSE or self.first == math.inf:
            self._decay(now)
            self.first = min(self.first, now)
        self.weight += rows

    def at(self, now: float) -> float:
        """Rows per second as of now; young estimates are corrected for the time not yet seen."""
        if self.first == math.inf:
            return 0.0
        age = max(now - self.first, 0.05)
        faded = self.weight * math.exp(-max(0.0, now - self.last) / self.memory_s)
        return faded / (self.memory_s * -math.expm1(-age / self.memory_s))

    def _decay(self, now: float) -> None:
        self.weight *= math.exp(-max(0.0, now - self.last) / self.memory_s)
        self.last = max(now, self.last)


def in_time_size(curve: Curve, target_s: float, rate: float, most: int) -> int:
    """Largest batch (1..most) whose members can be in time: n*(rate), or a batch of half the target if that is
    larger (rows that wait already need no time to gather, and the next batch still is in time behind it)."""
    if not curve.known:
        return most
    half = curve.largest_within(target_s / 2, most)
    return max(1, min(most, max(half, _gathered(curve, target_s, rate, most))))


def _gathered(curve: Curve, target_s: float, rate: float, most: int) -> int:
    if rate <= 0:
        return 0
    if curve.linear:
        return max(0, int((target_s - curve.fixed_s) / (curve.per_row_s + 1 / rate)))
    largest = 0
    for rows in range(1, most + 1):
        if rows / rate + curve.seconds(rows) <= target_s:
            largest = rows
    return largest


class Backlog(Struct, frozen=True, kw_only=True, gc=False):
    """What a new request finds, and how fast it will be worked off.

    `turnaround`: time of a batch from its start to its answers; `cap`: most rows of a batch; `free_in_s`: until a
    device takes the next batch; `rows_ahead` of the same bucket; `others_s` of device time that other models (or
    buckets) will take first; the offered `rate`; `own_runs`: a batch of this model runs; `capacity_share` of the
    device's time that other models leave to this one while it waits.
    """

    turnaround: Curve
    free_in_s: float
    rows_ahead: int
    others_s: float
    cap: int
    rate: float
    own_runs: bool = False
    capacity_share: float = 1.0


def expected_finish_s(backlog: Backlog, rows: int) -> float:
    """Seconds from now until the last of `rows` new rows is answered, in the batches that they would join."""
    seconds, cap = backlog.turnaround.seconds, max(1, backlog.cap)
    last = backlog.rows_ahead + rows
    batches_ahead = (last - 1) // cap
    start_s = backlog.free_in_s + (backlog.others_s + batches_ahead * seconds(cap)) / backlog.capacity_share
    joined = last - batches_ahead * cap
    # Until the batch starts, rows that arrive later join it, and make it longer.
    grown = joined + backlog.rate * start_s
    return start_s + seconds(min(cap, max(joined, int(grown))))


def expected_wait_s(backlog: Backlog) -> float:
    """Seconds that a new row would wait before its batch starts."""
    cap = max(1, backlog.cap)
    own_s = (backlog.rows_ahead // cap) * backlog.turnaround.seconds(cap)
    return backlog.free_in_s + (backlog.others_s + own_s) / backlog.capacity_share


class Admission(Struct, frozen=True, kw_only=True, gc=False):
    """`accepted`, with the time allowed (None: no bound), or the wait after which trying again makes sense."""

    accepted: bool
    allowed_s: float | None = None
    finish_s: float = 0.0
    retry_after_s: float = 0.0


ACCEPTED = Admission(accepted=True)


def judge(backlog: Backlog, rows: int, target_s: float | None, spent_s: float) -> Admission:
    """Accept iff the rows will be in time; `spent_s` of the target have passed since the request's arrival.

    Without a target, without a fit, or for a target that not even one row alone can meet, everything is accepted
    (the queue's bound remains). So is a request of a model that neither waits nor runs: it cannot be served any
    sooner, its lateness is the doing of other models, and refusing it forever would starve it.
    """
    curve = backlog.turnaround
    if target_s is None or not curve.known or curve.seconds(1) > target_s:
        return ACCEPTED
    finish_s = expected_finish_s(backlog, rows)
    allowed_s = allowance_s(curve, backlog.cap, rows, target_s)
    if spent_s + finish_s <= allowed_s:
        return Admission(accepted=True, allowed_s=allowed_s, finish_s=finish_s)
    if backlog.rows_ahead == 0 and not backlog.own_runs:
        return Admission(accepted=True, finish_s=finish_s)
    return Admission(accepted=False, finish_s=finish_s, retry_after_s=max(0.001, finish_s - allowed_s))


def is_hopeless(backlog: Backlog, rows: int, left_s: float) -> bool:
    """Can rows whose caller waits for `left_s` more seconds not be in time?"""
    return left_s <= 0 or (backlog.turnaround.known and expected_finish_s(backlog, rows) > left_s)


def earlier(one: float | None, other: float | None) -> float | None:
    """The first of two times, of which either may never come."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def allowance_s(curve: Curve, cap: int, rows: int, target_s: float) -> float:
    """The target, or for a request of more rows than fit in it even alone, twice the time that they take alone."""
    cap = max(1, cap)
    if rows == 1:
        return target_s if curve.seconds(1) <= target_s else 2 * curve.seconds(1)
    full, rest = divmod(rows, cap)
    alone = full * curve.seconds(cap) + (curve.seconds(rest) if rest else 0.0)
    return target_s if alone <= target_s else 2 * alone
