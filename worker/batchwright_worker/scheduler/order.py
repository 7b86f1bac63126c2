"""Which queue is served first (method B4, and our own default). Pure.

An order is an object of `ORDERS`; its name is one of the API's (`api/deployment`, QueueOrder). `Longest` (most waiting
rows) and `Oldest` (longest since last served) are B4's. `Balanced`, the default, shares device time between two simple
rules: `OLDEST_SHARE` of it goes to the queue with the oldest row, which bounds every wait (p99); the rest to the queue
that serves most rows per second of device time, loads included, which keeps the queues short (p50). Whoever is behind
its share goes next; there is no constant in seconds, so it suits models of any speed.
Before all of this go priorities: a queue whose first row has a higher one is ranked before the others, in every order,
and the order holds among queues of the same. While rows of higher priority fill the devices, lower ones wait (and are
refused, where they have a latency target); what of lower priority may go first all the same is decided in `slack`.
Neither may make a row late that could still be in time: such a row goes first, up to `dispatch.PASS_LIMIT` times in a
row past the same queue. Where one of two must be late it is that of the model that takes more of the device.
"""

from __future__ import annotations

import math
from typing import ClassVar, Protocol

from msgspec import Struct

from batchwright_worker.api.deployment import QueueOrder
from batchwright_worker.scheduler.queues import MIDDLE_PRIORITY, Bucket

OLDEST_SHARE = 0.68
"""Chosen on the frontier of p50 and p99 with 50 models in memory for 10 (docs/measurements.md)."""
MOST_BALANCE_S = 1.0
"""A share that could not be used is remembered up to here: a queue that was empty for an hour is not owed an hour."""


class Choice(Struct, frozen=True, kw_only=True, gc=False):
    """A queue as the order sees it: what its next batch would be and cost. `rows` of the next batch (its bucket's, at
    most the cap), `waiting_rows` of the whole queue (B4's number of waiting tasks); `run_s`: device time of the batch,
    `load_s`: of the load if the model is nowhere resident; `due`: when the first row is late (None: never); `full`:
    waiting would not make the batch larger or better; `use`: the share of the device that the model has had lately;
    `level`: the first row's priority, as a number that ranks."""

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
    level: int = MIDDLE_PRIORITY

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
        """A batch or a load of this model has begun that takes this much device time."""
        is_oldest = model == self.oldest
        change = (OLDEST_SHARE - 1) * seconds if is_oldest else OLDEST_SHARE * seconds
        self.balance_s = max(-MOST_BALANCE_S, min(MOST_BALANCE_S, self.balance_s + change))
        if loads and is_oldest:
            self.owed = model
        elif not loads and model == self.owed:
            self.owed = ""


class Order(Protocol):
    """A way to order the queues. `goes_by_deadline`: rows that would be late go first, so that admission may expect
    that rows of looser targets wait (see `backlog`). `splits_loads`: where loads take no device time the models that
    are resident take turns at the device, the others at being loaded; else there is one order of all queues, as
    published.
    """

    name: ClassVar[QueueOrder]
    goes_by_deadline: ClassVar[bool]
    splits_loads: ClassVar[bool]

    def ranked(self, choices: list[Choice], shares: FairShareState, now: float) -> list[Choice]:
        """Two choices or more, first served first."""
        ...


class LongestOrder:
    """B4: most waiting rows first."""

    name: ClassVar[QueueOrder] = "Longest"
    goes_by_deadline: ClassVar[bool] = False
    splits_loads: ClassVar[bool] = False

    def ranked(self, choices: list[Choice], shares: FairShareState, now: float) -> list[Choice]:
        """See `Order`."""
        return sorted(choices, key=lambda choice: (-choice.waiting_rows, choice.head_arrival, choice.model))


class OldestOrder:
    """B4: longest since last served first."""

    name: ClassVar[QueueOrder] = "Oldest"
    goes_by_deadline: ClassVar[bool] = False
    splits_loads: ClassVar[bool] = False

    def ranked(self, choices: list[Choice], shares: FairShareState, now: float) -> list[Choice]:
        """See `Order`."""
        return sorted(choices, key=lambda choice: (choice.last_served, choice.head_arrival, choice.model))


class BalancedOrder:
    """The default: the oldest row and the most worthwhile queue share the device's time; nobody is made late."""

    name: ClassVar[QueueOrder] = "Balanced"
    goes_by_deadline: ClassVar[bool] = True
    splits_loads: ClassVar[bool] = True

    def ranked(self, choices: list[Choice], shares: FairShareState, now: float) -> list[Choice]:
        """See `Order`."""
        by_worth = sorted(choices, key=_worth)
        first = shares.pick(by_worth) or by_worth[0]
        urgent = _urgent(first, by_worth, now, in_turn=bool(shares.oldest))
        if urgent is not None:
            shares.displaced = first.model
            return urgent
        return [first, *(choice for choice in by_worth if choice is not first)]


_ORDERS: tuple[Order, ...] = (BalancedOrder(), LongestOrder(), OldestOrder())
ORDERS: dict[QueueOrder, Order] = {order.name: order for order in _ORDERS}
"""Every order by its name in the API."""


def ordered(choices: list[Choice], order: Order, shares: FairShareState, now: float) -> list[Choice]:
    """First served first. Ties: the older head, then the name."""
    shares.displaced = ""
    if len(choices) < 2:
        shares.oldest = ""
        return choices
    level = min(choice.level for choice in choices)
    if any(choice.level != level for choice in choices):
        return _by_priority(level, choices, order, shares, now)
    return order.ranked(choices, shares, now)


def _by_priority(level: int, choices: list[Choice], order: Order, shares: FairShareState, now: float) -> list[Choice]:
    """The order ranks the queues of the highest priority, whose turn it is; the others come behind by their age."""
    highest = [choice for choice in choices if choice.level == level]
    lower = sorted((choice for choice in choices if choice.level != level), key=lambda each: (each.level, *_age(each)))
    if len(highest) < 2:
        shares.oldest = ""
        return [*highest, *lower]
    return [*order.ranked(highest, shares, now), *lower]


def _age(choice: Choice) -> tuple[float, str]:
    return (choice.head_arrival, choice.model)


def _worth(choice: Choice) -> tuple[float, float, str]:
    return (-choice.rows / max(choice.run_s + choice.load_s, 1e-6), choice.head_arrival, choice.model)


def _urgent(first: Choice, choices: list[Choice], now: float, *, in_turn: bool) -> list[Choice] | None:
    """The order with a queue before `first` whose row would be late behind it and is in time if the queues go by
    deadline; None where `first` keeps its place."""
    ends_at = now
    dated = sorted((choice for choice in choices if choice.due is not None and choice is not first), key=_due)
    for choice in dated:
        ends_at += choice.cost_s
        due, behind_first_at = _due(choice)[0], ends_at + first.cost_s
        # A row that is late in any order, or in time even behind `first`, is no reason to displace it: such a
        # preference would let the tighter target take the device whenever it has rows.
        if not ends_at <= due < behind_first_at:
            continue
        if first.due is not None:
            first_loses = behind_first_at > first.due
        else:
            # Without a deadline `first` loses only in its turn as the oldest row, when it has waited longer than the
            # other may: else a model without a target would never be served next to a busy one that has one.
            first_loses = in_turn and now - first.head_arrival > due - choice.head_arrival
        # One of the two must be late: the model that has had more of the device lately, so that whoever asks for more
        # than its share misses its own target and not the others'.
        if not first_loses or choice.use < first.use:
            return [choice, *(other for other in choices if other is not choice)]
    return None


def _due(choice: Choice) -> tuple[float, float, str]:
    return (choice.due if choice.due is not None else math.inf, choice.head_arrival, choice.model)
