"""A bound on how often something is done: some at once, fewer in the long run. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Bucket:
    """A token bucket: `burst` at once, `per_s` in the long run. Times are of one clock, in seconds, which may be set
    back: that takes nothing away."""

    burst: float
    per_s: float
    tokens: float
    at: float

    def take(self, now: float) -> bool:
        """Whether one more is allowed now."""
        self.tokens = min(self.burst, self.tokens + max(0.0, now - self.at) * self.per_s)
        self.at = now
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True

    def is_full(self, now: float) -> bool:
        """Whether nothing was done for so long that this bucket is as a new one."""
        return self.tokens + max(0.0, now - self.at) * self.per_s >= self.burst
