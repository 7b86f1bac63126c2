"""What a new request of a model would find: devices, own rows and other models ahead of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from batchwright_worker.scheduler.admission import Backlog
from batchwright_worker.scheduler.devices import Device
from batchwright_worker.scheduler.order import Order
from batchwright_worker.scheduler.queues import Bucket
from batchwright_worker.scheduler.served_model import BucketFacts, ServedModel

LEAST_SHARE = 0.1
"""However much is offered of higher priority, a row expects at least this share of the device: 0 would predict an
endless wait."""
_LOWEST = 1 << 62
"""A level that everything else is at or above."""
NEARLY = 1.1
"""Models whose use of the device differs by less count as equals: it is a smoothed estimate."""


class _OwnSide(NamedTuple):
    """A new row's own side: batches that it takes until it is served, seconds until the device is free and until a full
    batch that starts then has ended, and whether queues go by deadline where that matters."""

    batches: int
    start_s: float
    end_s: float
    by_deadline: bool


def expected_backlog(  # noqa: PLR0913, PLR0917 - all that a row waits for
    served: ServedModel,
    bucket: Bucket,
    models: Mapping[str, ServedModel],
    devices: Mapping[str, Device],
    now: float,
    order: Order,
    level: int | None = None,
) -> Backlog:
    """Of the devices that hold the model (else of all), the one that is free first counts. `level` of the new row's
    priority, where there are several."""
    facts, queue = served.facts(bucket, now), served.queue
    free_in_s, usable, own_runs = _device(served, devices, now)
    rows_ahead, others_s = queue.rows, 0.0
    if level is not None or len(queue.groups) > 1 or (rows_ahead and bucket not in queue.groups):
        rows_ahead, others_s = _own_buckets(served, bucket, _LOWEST if level is None else level, now)
    elif rows_ahead and (large_rows := queue.groups[bucket].large_rows):
        rows_ahead = _by_turns(rows_ahead, large_rows, facts.cap)
    if len(models) > 1:
        by_deadline = order.goes_by_deadline and served.target_s is not None
        end_s = free_in_s + facts.turnaround.seconds(facts.cap)
        own = _OwnSide(1 + queue.rows // facts.cap, free_in_s, end_s, by_deadline)
        ahead_s = partial(_ahead_s, served) if level is None else partial(_ahead_by_priority_s, level, served)
        others_s += sum(
            ahead_s(other, own, now) for other in models.values() if other is not served and other.queue.rows
        )
    rate, capacity_share = facts.rate, served.capacity_share
    if level is not None and served.offered_by:
        rate = served.rate_ahead(level, now)
        # What will come of higher priority goes first as well.
        taken = served.rate_ahead(level - 1, now) * facts.turnaround.seconds(facts.cap) / facts.cap
        capacity_share *= max(LEAST_SHARE, 1.0 - taken)
    return Backlog(
        turnaround=facts.turnaround,
        free_in_s=free_in_s,
        rows_ahead=rows_ahead,
        others_s=others_s / usable if usable > 1 else others_s,
        cap=facts.cap,
        rate=rate,
        own_runs=own_runs,
        capacity_share=capacity_share,
    )


def _device(served: ServedModel, devices: Mapping[str, Device], now: float) -> tuple[float, int, bool]:
    """Seconds until a device is free for the model, how many could be, and whether one runs it now."""
    up = [device for device in devices.values() if not device.down]
    holders = [device for device in up if served.name in device.memory.residents]
    usable = holders or up
    if not usable:
        return 0.0, 1, False
    free_in_s = min(device.free_at(now) for device in usable) - now
    if not holders:
        free_in_s += served.footprint.load_s
    own_runs = any(flight.model == served.name for device in usable for flight in device.timeline.in_flight)
    return free_in_s, len(usable), own_runs


def _own_buckets(served: ServedModel, bucket: Bucket, level: int, now: float) -> tuple[int, float]:
    """Rows of the same bucket, and the device time of the others' batches: rows share none across buckets. Those of
    lower priority are not ahead."""
    rows, others_s = 0, 0.0
    for other, group in served.queue.groups.items():
        facts = served.facts(other, now)
        ahead = _by_turns(group.ahead(level), group.large_rows, facts.cap)
        if other == bucket:
            rows = ahead
        else:
            others_s += _batches_s(facts, ahead)
    return rows, others_s


def _by_turns(rows: int, large_rows: int, cap: int) -> int:
    """Rows ahead, where those of large requests share by turns: of these about a batch."""
    return rows if not large_rows else rows - max(0, min(rows, large_rows) - cap)


def _ahead_by_priority_s(level: int, served: ServedModel, other: ServedModel, own: _OwnSide, now: float) -> float:
    """As `_ahead_s`, where requests have several priorities: all that waits of a higher one goes first, nothing of a
    lower one."""
    higher, equal = other.queue.rows_ahead(level - 1), other.queue.rows_ahead(level)
    if higher:
        return _batches_s(other.facts(other.queue.next_bucket(), now), equal)
    return _ahead_s(served, other, own, now) if equal else 0.0


def _ahead_s(served: ServedModel, other: ServedModel, own: _OwnSide, now: float) -> float:
    """Device time of the batches of a queue that will probably run before a new row of this model. Where the order goes
    by deadline, for a model with a target: who has had more of the device makes way where one of two must be late (see
    `order`)."""
    bucket = other.queue.next_bucket()
    facts, rows = other.facts(bucket, now), other.queue.rows
    if not own.by_deadline:
        # The queues alternate: as many batches of the other one as this row has to wait for in its own.
        return _batches_s(facts, min(rows, own.batches * facts.cap))
    assert served.target_s is not None
    if other.use > NEARLY * served.use:
        return 0.0
    next_batch_s = facts.turnaround.seconds(min(rows, facts.cap))
    head = other.queue.head(bucket)
    assert head is not None
    if other.target_s is None:
        # Without a deadline it goes first in its turn as the oldest only, once it has waited longer than this row may.
        will_have_waited_s = now + own.start_s - head.arrival
        return next_batch_s if will_have_waited_s > served.target_s else 0.0
    if other.target_s <= served.target_s:
        # All that waits of a tighter target is due before a row that arrives now.
        return _batches_s(facts, rows)
    # Of a looser target at most the next batch: if it is due before this row, or would be late behind a batch of ours.
    due, own_due = head.arrival + other.target_s, now + served.target_s
    behind_own_at = now + own.end_s + next_batch_s
    return next_batch_s if due < max(own_due, behind_own_at) else 0.0


def _batches_s(facts: BucketFacts, rows: int) -> float:
    full, rest = divmod(rows, facts.cap)
    return full * facts.turnaround.seconds(facts.cap) + (facts.turnaround.seconds(rest) if rest else 0.0)
