"""What lasts of a processor's samples: their mean over a window, without what is gone when a placed pod works. Pure.

A pod stays for days where a sample of one moment sends it. So a placement goes by a mean, and by what is still there
afterwards: pods that have ended, and those that will by themselves (preparation Jobs, say), are taken out of it where
the source tells which pod used what. Where it does not (devices, exporters), the seconds of our own benchmark are
left out as a whole, and the window reaches further back instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from batchwright_operator.reconcile.live_state import Sample

OLDEST_S: Final = 600.0
"""What was seen longer ago than this says nothing about now."""

Place = tuple[str, str]
"""(node, accelerator kind)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """A sample and the seconds that it stands for: those since the one before."""

    sample: Sample
    seconds: float


@dataclass(slots=True, kw_only=True)
class _History:
    newest: Sample
    readings: deque[_Reading] = field(default_factory=deque)
    """Without those that a benchmark disturbed; the newest last."""
    seconds: float = 0.0


class Windows:
    """The samples of every processor over a window of `window_s` seconds; 0: the newest sample alone, as it is."""

    def __init__(self, *, window_s: float, interval_s: float) -> None:
        self._window_s, self._interval_s = window_s, interval_s
        self._histories: dict[Place, _History] = {}

    def add(self, place: Place, sample: Sample, *, disturbed_until: float | None = None) -> None:
        """A newer sample; an older or equal one is ignored. `disturbed_until`: until when a benchmark of ours ran
        there, of which the sample does not tell its part."""
        history = self._histories.get(place)
        if history is not None and sample.taken_at <= history.newest.taken_at:
            return
        before = history.newest.taken_at if history is not None else sample.taken_at - self._interval_s
        if history is None:
            history = self._histories[place] = _History(newest=sample)
        history.newest = sample
        began = min(before, sample.taken_at - sample.seconds)
        if disturbed_until is not None and disturbed_until > began:
            return
        reading = _Reading(sample=sample, seconds=min(sample.taken_at - before, self._window_s))
        history.readings.append(reading)
        history.seconds += reading.seconds
        self._shorten(history)

    def forget(self, node: str) -> None:
        """A node that is gone."""
        for place in [place for place in self._histories if place[0] == node]:
            del self._histories[place]

    def lasting(self, place: Place, ends: Callable[[str], bool]) -> Sample | None:
        """The mean over the window without the pods for whose uid `ends` holds; None: nothing was seen that lasts.

        Its `taken_at` is that of the newest sample, whatever was left out of it: it says whether the source is alive.
        """
        history = self._histories.get(place)
        if history is None or self._window_s <= 0:
            return history.newest if history is not None else None
        self._shorten(history)
        if not history.readings:
            return None
        busy = memory = left_out = seconds = 0.0
        for each in history.readings:
            ended = _sum_of(each.sample, ends)
            busy += each.seconds * max(0.0, each.sample.utilization - ended[0])
            memory += each.seconds * max(0.0, each.sample.memory_utilization - ended[1])
            left_out += each.seconds * min(each.sample.utilization, ended[0])
            seconds += each.seconds
        until = history.readings[-1].sample.taken_at
        return replace(
            history.newest,
            utilization=busy / seconds,
            memory_utilization=memory / seconds,
            seconds=seconds,
            until=until if until < history.newest.taken_at else None,
            left_out=left_out / seconds,
        )

    def mean_of_pod(self, place: Place, uid: str) -> float | None:
        """The mean share of the processor that one pod used over the window; None where that is not told."""
        history = self._histories.get(place)
        told = [each for each in history.readings if each.sample.pods is not None] if history is not None else []
        if not told:
            return None
        used = sum(each.seconds * (each.sample.pods or {}).get(uid, (0.0, 0.0))[0] for each in told)
        return used / sum(each.seconds for each in told)

    def _shorten(self, history: _History) -> None:
        """Drops readings that the window does not need, and those that are too old."""
        readings, oldest = history.readings, history.newest.taken_at - max(OLDEST_S, self._window_s)
        while readings and (
            readings[0].sample.taken_at <= oldest or history.seconds - readings[0].seconds >= self._window_s
        ):
            history.seconds -= readings.popleft().seconds


def _sum_of(sample: Sample, ends: Callable[[str], bool]) -> tuple[float, float]:
    """The parts of both utilizations by pods that end."""
    parts = [part for uid, part in (sample.pods or {}).items() if ends(uid)]
    return sum(busy for busy, _ in parts), sum(memory for _, memory in parts)
