"""What an event did to a load: how long answers were late, when each model answered again. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Answer", "Heard", "Judged", "first_answers", "judged", "late_seconds", "percentile"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One that was right: when it came, and how long after its request."""

    at: float
    seconds: float


@dataclass(slots=True)
class Heard:
    """What the callers of one model heard."""

    answers: list[Answer] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    wrong: int = 0

    def between(self, start: float, end: float) -> list[Answer]:
        """Answers that came within [start, end)."""
        return [answer for answer in self.answers if start <= answer.at < end]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """An event, by what others heard. `first`: seconds to each model's first answer; `late`: seconds in which the
    slowest answer took more than twice as long as 99 % did before; `slowest`: seconds."""

    first: Mapping[str, float]
    late: Mapping[str, float]
    slowest: float


def percentile(values: Iterable[float], share: float) -> float:
    """Nearest rank; NaN of nothing."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))] if ranked else float("nan")


def first_answers(heard: Mapping[str, Heard], at: float) -> dict[str, float]:
    """Seconds from `at` to each model's first answer behind it; infinite for a model that gave none."""
    return {
        model: min((answer.at - at for answer in each.answers if answer.at > at), default=float("inf"))
        for model, each in heard.items()
    }


def late_seconds(answers: Sequence[Answer], bound: float, at: float) -> int:
    """Of the seconds behind `at` those in which an answer came that had taken longer than `bound`, and those that it
    was waited for in."""
    seconds: set[int] = set()
    for answer in answers:
        if answer.seconds > bound:
            waited_from = max(at, answer.at - answer.seconds + bound)
            seconds.update(range(int(waited_from - at), int(answer.at - at) + 1))
    return len(seconds)


def judged(heard: Mapping[str, Heard], steady: tuple[float, float], at: float, end: float) -> Judged:
    """The event at `at`, whose consequences are looked at up to `end`, against the steady load before."""
    late: dict[str, float] = {}
    slowest = 0.0
    for model, each in heard.items():
        before = percentile((answer.seconds for answer in each.between(*steady)), 0.99)
        behind = each.between(at, end)
        late[model] = late_seconds(behind, 2 * before, at)
        slowest = max([slowest, *(answer.seconds for answer in behind)])
    return Judged(first=first_answers(heard, at), late=late, slowest=slowest)
