"""The Mann-Kendall trend test: of batch sizes (method A7), and of what the operator watches over time. Pure.

Mann, Nonparametric tests against trend, Econometrica 13 (1945); the variance with ties and the continuity correction
(S moved by 1 towards 0) as in Kendall, Rank Correlation Methods (1975).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Direction = Literal["Rising", "Falling", "Flat"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """S, Var(S) and Z of one series."""

    s: int
    variance: float
    z: float

    @property
    def direction(self) -> Direction:
        """Z > 0: Rising, Z < 0: Falling (A7 asks for the sign only, not for significance)."""
        if self.z > 0:
            return "Rising"
        return "Falling" if self.z < 0 else "Flat"


SIGNIFICANT: Final = 1.645
"""|Z| beyond which a trend in one direction is chance in less than one of twenty series."""
FLAT = Trend(s=0, variance=0.0, z=0.0)


def mann_kendall(series: Sequence[float]) -> Trend:
    """Method A7: S over all pairs, its variance with ties, and Z (0 when S or the variance is 0)."""
    n = len(series)
    s = sum(_sign(later - earlier) for i, earlier in enumerate(series) for later in series[i + 1 :])
    tied = sum(t * (t - 1) * (2 * t + 5) for t in Counter(series).values())
    variance = (n * (n - 1) * (2 * n + 5) - tied) / 18
    if s == 0 or variance == 0:
        return Trend(s=s, variance=variance, z=0.0)
    return Trend(s=s, variance=variance, z=(s - _sign(s)) / math.sqrt(variance))


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
