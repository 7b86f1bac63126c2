"""Whose turn it is: the queues that could be served now, in the order in which they are to be. Pure.

By priority, then by the deployment's order (`order`); but what is urgent lets others go first where it stays in time
(`slack`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from batchwright_worker.scheduler import slack, views
from batchwright_worker.scheduler.devices import Device
from batchwright_worker.scheduler.order import Choice, FairShareState, Order, ordered
from batchwright_worker.scheduler.served_model import ServedModel
from batchwright_worker.scheduler.slack import UrgentQueue
from batchwright_worker.scheduler.views import Moment

Shares = tuple[FairShareState, FairShareState]
"""Of the device's time; and who is loaded next where loads overlap batches."""


def in_turn(
    waiting: Sequence[ServedModel], devices: Mapping[str, Device], moment: Moment, order: Order, shares: Shares
) -> tuple[list[Choice], float | None]:
    """The queues that wait, first served first, and when the first that is not ripe yet will be.

    Where loads overlap batches they take no device time: then (but for B4's orders) the resident models take their
    turns at the device, the others theirs at being loaded."""
    found, wake_at = views.choices(waiting, devices, moment)
    overlaps = order.splits_loads and any(device.timeline.overlaps_loads for device in devices.values())
    if len(found) < 2 or not overlaps:
        ranked = ordered(found, order, shares[0], moment.now)
        return with_slack_used(ranked, waiting, devices, moment), wake_at
    resident = ordered([choice for choice in found if not choice.load_s], order, shares[0], moment.now)
    lacking = ordered([choice for choice in found if choice.load_s], order, shares[1], moment.now)
    return [*with_slack_used(resident, waiting, devices, moment), *lacking], wake_at


def with_slack_used(
    ranked: list[Choice], waiting: Sequence[ServedModel], devices: Mapping[str, Device], moment: Moment
) -> list[Choice]:
    """The same order, but for a queue of lower priority that may go first: the first such one in the order. Not where
    devices interleave batches: nothing tells then when one begins."""
    if not moment.mixed or len(ranked) < 2 or ranked[0].level == ranked[-1].level:
        return ranked
    level = ranked[0].level
    urgent = [choice for choice in ranked if choice.level == level]
    if any(choice.due is None or choice.load_s for choice in urgent):
        return ranked
    if any(device.timeline.interleaves for device in devices.values()):
        return ranked
    served = {each.name: each for each in waiting}
    queues = [_urgent(choice, served[choice.model], moment.now) for choice in urgent]
    for choice in ranked[len(urgent) :]:
        if choice.load_s:
            continue
        facts = served[choice.model].facts(choice.bucket, moment.now)
        rows = slack.rows_before(queues, facts.turnaround, choice.rows, moment.now, moment.begins)
        if rows:
            first = replace(choice, rows=rows, run_s=facts.curve.seconds(rows))
            return [first, *(other for other in ranked if other is not choice)]
    return ranked


def _urgent(choice: Choice, served: ServedModel, now: float) -> UrgentQueue:
    facts = served.facts(choice.bucket, now)
    assert choice.due is not None
    return UrgentQueue(rows=choice.rows, cap=facts.cap, due=choice.due, rate=facts.rate, turnaround=facts.turnaround)
