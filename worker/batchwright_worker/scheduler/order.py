"""Which queue is served first (method B4, and our own default). Pure.

`Longest` (most waiting rows) and `Oldest` (longest since last served) are B4's. `Balanced`, the default, shares device
time between two simple rules: `OLDEST_SHARE` of it goes to the queue with the oldest row, which bounds every wait
(p99); the rest to the queue that serves most rows per second of device time, loads included, which keeps the queues
short (p50). Whoever is behind its share goes next; there is no constant in seconds, so it suits models of any speed.
Neither may make a row late that could still be in time: such a row goes first, up to `dispatch.PASS_LIMIT` times in a
row past the same queue. Where one of two must be late it is that of the model that takes more of the device.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from batchwright_worker.scheduler.queues import Bucket

Order = Literal["Balanced", "Longest", "Oldest"]
OLDEST_SHARE = 0.68
"""Chosen on the frontier of p50 and p99 with 50 models in memory for 10 (docs/measurements.md)."""
MOST_BALANCE_S = 1.0
"""A share that could not be used is remembered up to here."""


class Choice(Struct, frozen=True, kw_only=True, gc=False):
    """A queue as the order sees it: what its next batch would be and cost. `rows` of the next batch (its bucket's, at
    most the cap), `waiting_rows` of the whole queue (B4's number of waiting tasks); `run_s`: device time of the batch,
    `load_s`: of the load if the model is nowhere resident; `due`: when the first row is late (None: never); `full`:
    waiting would not make the batch larger; `use`: the share of the device that the model has had lately."""

    model: str
    bucket: Bucket
    rows: int
    waiting_rows: int
    run_s: float
    last_served: float
    head_arrival: float
    load_s: float = 0.0
    due: float | None = None
    full: bool = False
    use: float = 0.0

    @property
    def cost_s(self) -> float:
        return self.run_s + self.load_s


class FairShareState:
    """The shares of `Balanced`: what each of the two rules has had of the device's time."""

    __slots__ = ("balance_s", "displaced", "oldest", "owed")

    def __init__(self) -> None:
        self.balance_s = 0.0
        """From 0 on it is the oldest row's turn."""
        self.oldest = ""
        """The model whose turn it is as the oldest, empty if it is not."""
        self.owed = ""
        """The model that was loaded in the oldest row's turn, until its batch has begun."""
        self.displaced = ""
        """The model that would be first but for the others' deadlines."""

    def pick(self, choices: list[Choice]) -> Choice | None:
        """The queue whose turn it is regardless of worth, None when the most worthwhile one is next."""
        self.oldest = ""
        first = next((choice for choice in choices if choice.model == self.owed), None) if self.owed else None
        if first is None:
            self.owed = ""
            if self.balance_s < 0:
                return None
            first = min(choices, key=_age)
        self.oldest = first.model
        return first

    def spent(self, model: str, seconds: float, *, loads: bool) -> None:
        """A batch or a load of this model has begun that takes so much device time."""
        is_oldest = model == self.oldest
        change = (OLDEST_SHARE - 1) * seconds if is_oldest else OLDEST_SHARE * seconds
        self.balance_s = max(-MOST_BALANCE_S, min(MOST_BALANCE_S, self.balance_s + change))
        if loads and is_oldest:
            self.owed = model
        elif not loads and model == self.owed:
            self.owed = ""


def ordered(choices: list[Choice], order: Order, turns: FairShareState, now: float) -> list[Choice]:
    """First served first. Ties: the older head, then the name."""
    turns.displaced = ""
    if len(choices) < 2:
        turns.oldest = ""
        return choices
    if order == "Longest":
        return sorted(choices, key=lambda choice: (-choice.waiting_rows, choice.head_arrival, choice.model))
    if order == "Oldest":
        return sorted(choices, key=lambda choice: (choice.last_served, choice.head_arrival, choice.model))
    ranked = sorted(choices, key=_worth)
    first = turns.pick(ranked) or ranked[0]
    urgent = _urgent(first, ranked, now, in_turn=bool(turns.oldest))
    if urgent is not None:
        turns.displaced = first.model
        return urgent
    return [first, *(choice for choice in ranked if choice is not first)]


def _age(choice: Choice) -> tuple[float, str]:
    return (choice.head_arrival, choice.model)


def _worth(choice: Choice) -> tuple[float, float, str]:
    return (-choice.rows / max(choice.run_s + choice.load_s, 1e-6), choice.head_arrival, choice.model)


def _urgent(first: Choice, choices: list[Choice], now: float, *, in_turn: bool) -> list[Choice] | None:
    """Would serving `first` now make a row late that is in time if the queues go by deadline? Then that order; except
    that `first` keeps its place if it would be late itself (without a deadline: in its turn as the oldest, if it has
    waited longer than the other may) and its model has had less of the device: who takes more is the one to be late."""
    end_s = now
    dated = sorted((choice for choice in choices if choice.due is not None and choice is not first), key=_due)
    for choice in dated:
        end_s += choice.cost_s
        if not end_s <= _due(choice)[0] < end_s + first.cost_s:
            continue
        if first.due is None:
            loses = in_turn and now - first.head_arrival > _due(choice)[0] - choice.head_arrival
        else:
            loses = end_s + first.cost_s > first.due
        if not loses or choice.use < first.use:
            return [choice, *(other for other in choices if other is not choice)]
    return None


def _due(choice: Choice) -> tuple[float, float, str]:
    return (choice.due if choice.due is not None else float("inf"), choice.head_arrival, choice.model)
