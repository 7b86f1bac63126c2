"""Has an imbalance lasted? The gains of every replica over the last windows, and the trend in them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from batchwright_operator.rebalance.standing import Standing
from batchwright_worker.mann_kendall import SIGNIFICANT, mann_kendall

WINDOWS: Final = 5
"""How many windows in a row a gain has to last. The fewest in which a falling trend is significant at all."""


def has_lasted(gains: Sequence[float], threshold: float) -> bool:
    """Whether the gain was above the threshold in each of the last windows, and does not mend itself: by the
    Mann-Kendall test it has no falling trend."""
    recent = gains[-WINDOWS:]
    return len(recent) == WINDOWS and min(recent) >= threshold and mann_kendall(recent).z > -SIGNIFICANT


class Histories:
    """The gains of the replicas that stood badly in every window so far. A window in which one did not ends its
    history, and so does a restart of the operator: a move that comes late harms nobody."""

    def __init__(self, *, window_s: float) -> None:
        self._window_s = window_s
        self._gains: dict[str, deque[float]] = {}
        self._noted_at = float("-inf")

    def is_due(self, now: float) -> bool:
        """Is a window over since the last note?"""
        return now - self._noted_at >= self._window_s

    def note(self, standings: Iterable[Standing], now: float) -> None:
        """All replicas that stand badly now."""
        self._noted_at = now
        gains = {each.pod.uid: each.gain for each in standings}
        self._gains = {uid: self._gains.get(uid, deque(maxlen=WINDOWS)) for uid in gains}
        for uid, gain in gains.items():
            self._gains[uid].append(gain)

    def of(self, uid: str) -> tuple[float, ...]:
        """The gains of a pod, oldest first."""
        return tuple(self._gains.get(uid, ()))


def worst(standings: Iterable[Standing], histories: Histories, threshold: float) -> list[Standing]:
    """Those whose imbalance has lasted: one of each deployment, the largest gain first, then by name."""
    lasting = [each for each in standings if has_lasted(histories.of(each.pod.uid), threshold)]
    lasting.sort(key=lambda each: (-each.gain, each.pod.namespace, each.pod.name))
    first = {each.pod.owner: each for each in reversed(lasting)}
    return [each for each in lasting if first[each.pod.owner] is each]
