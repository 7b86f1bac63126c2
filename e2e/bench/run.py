"""One run of a load generator, as arrays, and what is read from it. Pure. Times are seconds of the monotonic clock.

Every request counts from the moment at which it was scheduled. Refused, lost, wrong and unanswered ones are misses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2e.bench.device import Device

Array = NDArray[Any]
LATE_MS = 2.0
"""A run whose generator sent 1 of 100 requests this late says more about the generator than about the server."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """`seconds`: how long requests were scheduled. One entry per request; `done_s` 0: never answered."""

    rate: float
    seconds: float
    scheduled_s: Array
    sent_s: Array
    done_s: Array
    latency_s: Array
    status: Array
    index: Array

    @classmethod
    def of(cls, columns: dict[str, Array], rate: float, seconds: float) -> Run:
        """From the generator's nanoseconds."""
        return cls(
            rate=rate,
            seconds=seconds,
            scheduled_s=columns["scheduled"] / 1e9,
            sent_s=columns["sent"] / 1e9,
            done_s=columns["done"] / 1e9,
            latency_s=columns["latency"] / 1e9,
            status=columns["status"],
            index=columns["index"],
        )

    @property
    def count(self) -> int:
        """Requests."""
        return len(self.status)

    @property
    def answered(self) -> Array:
        """Mask: right answers."""
        return np.asarray(self.status == 200)

    @property
    def refused(self) -> int:
        """503 and 429: told at once to come back later."""
        return int(np.isin(self.status, (429, 503)).sum())

    @property
    def failed(self) -> int:
        """Neither answered nor refused."""
        return self.count - int(self.answered.sum()) - self.refused

    def in_time(self, target_s: float) -> Array:
        """Mask."""
        return np.asarray(self.answered & (self.latency_s <= target_s))

    def in_time_share(self, target_s: float) -> float:
        """Of all requests."""
        return float(self.in_time(target_s).sum() / max(1, self.count))

    def in_time_rate(self, target_s: float) -> float:
        """Answers in time per second of load."""
        return float(self.in_time(target_s).sum() / self.seconds)

    def good_rate_between(self, begin_s: float, end_s: float, target_s: float) -> float:
        """Answers in time that came within this piece of time, per second."""
        here = self.in_time(target_s) & (self.done_s >= begin_s) & (self.done_s < end_s)
        return float(here.sum() / (end_s - begin_s))

    def answered_rate(self) -> float:
        """Answers per second while the load lasted."""
        if not self.count:
            return 0.0
        end = float(self.scheduled_s.min()) + self.seconds
        return float((self.answered & (self.done_s <= end)).sum() / self.seconds)

    def latency_ms(self, share: float) -> float:
        """Percentile over all requests; misses without an answer are infinitely late."""
        every = np.sort(np.where(self.answered, self.latency_s, np.inf))
        return float(every[min(len(every) - 1, int(np.ceil(share * len(every))) - 1)] * 1e3) if len(every) else 0.0

    def answered_latency_ms(self, share: float) -> float:
        """Percentile over the answers alone."""
        found = self.latency_s[self.answered]
        return float(np.quantile(found, share, method="higher") * 1e3) if len(found) else float("inf")

    def lateness_ms(self, share: float) -> float:
        """How long after schedule requests were sent: the generator's own fault."""
        return float(np.quantile(self.sent_s - self.scheduled_s, share) * 1e3) if self.count else 0.0

    @property
    def valid(self) -> bool:
        """Was the generator good enough to judge a server by?"""
        return self.lateness_ms(0.99) <= LATE_MS

    @property
    def late_share(self) -> float:
        """Requests that the generator sent late."""
        return float(((self.sent_s - self.scheduled_s) * 1e3 > LATE_MS).mean()) if self.count else 0.0


def together(runs: Sequence[Run]) -> Run:
    """Runs at the same time as one load."""
    columns = ("scheduled_s", "sent_s", "done_s", "latency_s", "status", "index")
    joined: dict[str, Any] = {name: np.concatenate([getattr(run, name) for run in runs]) for name in columns}
    return Run(rate=sum(run.rate for run in runs), seconds=max(run.seconds for run in runs), **joined)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """What happened to the requests that were scheduled in one piece of time, `at_s` after the origin."""

    at_s: float
    offered: int
    in_time: int
    late: int
    refused: int


def intervals(run: Run, origin_s: float, until_s: float, target_s: float, width_s: float = 0.1) -> list[Interval]:
    """Per 100 ms, by the time at which requests were scheduled, from the origin on."""
    count = round((until_s - origin_s) / width_s)
    bins = np.floor((run.scheduled_s - origin_s) / width_s).astype(int)
    good, refused = run.in_time(target_s), np.isin(run.status, (429, 503))
    found = []
    for number in range(count):
        here = bins == number
        offered, in_time, turned = (int((here & mask).sum()) for mask in (here, good, refused))
        found.append(
            Interval(
                at_s=number * width_s,
                offered=offered,
                in_time=in_time,
                late=offered - in_time - turned,
                refused=turned,
            )
        )
    return found


def recovery_s(run: Run, since_s: float, target_s: float) -> float:
    """Seconds from `since_s` until the last request that was missed (0: none was)."""
    missed = run.scheduled_s[(run.scheduled_s > since_s) & ~run.in_time(target_s)]
    return float(missed.max() - since_s) if len(missed) else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTruth:
    """Is the device as slow as it says? `fastest_ms` of all answers against `least_ms`; most answers in any
    second against what the device can do in one (its ceiling, and one full batch that ended as it began)."""

    fastest_ms: float
    least_ms: float
    most_per_second: float
    ceiling_per_second: float

    @property
    def holds(self) -> bool:
        """No answer faster than a + b, never more than the ceiling."""
        return self.fastest_ms >= self.least_ms and self.most_per_second <= self.ceiling_per_second


def device_truth(run: Run, device: Device) -> DeviceTruth:
    """From the answers alone. The device's own rate is highest with full batches, so no second may hold more than those
    that fit into it plus the one under way when it began."""
    done = np.sort(run.done_s[run.answered])
    through = run.done_s[run.answered] - run.sent_s[run.answered]
    most = int((np.searchsorted(done, done + 1.0) - np.arange(len(done))).max(initial=0))
    return DeviceTruth(
        fastest_ms=float(through.min(initial=np.inf) * 1e3),
        least_ms=device.seconds(1) * 1e3,
        most_per_second=float(most),
        ceiling_per_second=device.rate(device.max_size) + device.max_size,
    )
