"""The emulated device on paper: its ceiling, the bound of serving.md, and the ideal admission rule simulated.

All rates are requests of one row per second.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A batch of n rows takes fixed_ms + n * per_row_ms, one batch at a time; `max_size` rows at most in one."""

    fixed_ms: float = 10.0
    per_row_ms: float = 2.0
    max_size: int = 32

    def __str__(self) -> str:
        return f"{self.fixed_ms:g} + {self.per_row_ms:g}n ms"

    def seconds(self, rows: int) -> float:
        """Of one batch."""
        return (self.fixed_ms + rows * self.per_row_ms) / 1e3

    def rate(self, rows: int) -> float:
        """Rows per second in batches of this size."""
        return rows / self.seconds(rows)

    def largest(self, rate: float, target_s: float) -> int:
        """n*: the largest batch whose members can all be in time when `rate` is offered."""
        gathered = (target_s * 1e3 - self.fixed_ms) / (self.per_row_ms + 1e3 / rate)
        return max(1, min(self.max_size, int(gathered)))

    def bound(self, rate: float, target_s: float) -> float:
        """Most answers in time per second when `rate` is offered."""
        return min(rate, self.rate(self.largest(rate, target_s)))


def ideal(device: Device, rate: float, target_s: float, seconds: float, seed: int) -> tuple[float, float]:
    """Answers in time per second, and their share of all requests, of the rule that serving.md derives: accept a
    request iff it will be in time in the batch that it joins, with batches of n*(rate) at most. No overheads."""
    generator, size = random.Random(seed), device.largest(rate, target_s)  # noqa: S311 - no secret
    waiting: deque[float] = deque()
    free_at = now = 0.0
    offered = good = 0
    while now < seconds:
        now += generator.expovariate(rate)
        while waiting and free_at <= now:
            rows = min(len(waiting), size)
            good += rows
            free_at += device.seconds(rows)
            for _ in range(rows):
                waiting.popleft()
        offered += 1
        if free_at <= now:
            free_at = now + device.seconds(1)
            good += 1
        elif free_at + (len(waiting) // size + 1) * device.seconds(size) <= now + target_s:
            waiting.append(now)
    return good / seconds, good / max(1, offered)


def ideal_rate(device: Device, target_s: float, share: float, seconds: float = 600.0) -> float:
    """The highest rate (to 0.5 %) of which the ideal rule answers `share` in time."""
    low, high = 0.0, device.rate(device.max_size)
    while high - low > 0.005 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if ideal(device, middle, target_s, seconds, 11)[1] >= share else (low, middle)
    return low
