"""The queues that could be served now and the devices as dispatch sees them, from the scheduler's books. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from batchwright_worker.scheduler.devices import DeviceBooks, Eviction, keep_value
from batchwright_worker.scheduler.dispatch import UNBOUNDED, Device, Queued, RunBatch, rows_that_fit
from batchwright_worker.scheduler.order import Choice
from batchwright_worker.scheduler.served_model import ServedModel

SOON_S = 1.0
"""Rows that wait count as demand of so many seconds."""


def choices(
    waiting: Iterable[ServedModel], devices: Mapping[str, DeviceBooks], now: float
) -> tuple[list[Choice], float | None]:
    """What the next batch of every queue would be, and when the first that is not ripe yet (maxQueueDelay) will be."""
    found: list[Choice] = []
    wake_at: float | None = None
    resident = {name for books in devices.values() for name in (*books.held, books.expects)}
    for served in waiting:
        queue = served.queue
        bucket = queue.next_bucket()
        head = queue.head(bucket)
        if head is None:
            continue
        facts = served.facts(bucket, now)
        cap = facts.cap
        rows = min(queue.groups[bucket].rows, cap)
        ripe_at = head.arrival + served.plan.queue_delay_s
        if rows < cap and now < ripe_at:
            wake_at = ripe_at if wake_at is None else min(wake_at, ripe_at)
            continue
        found.append(
            Choice(
                model=served.name,
                bucket=bucket,
                rows=rows,
                waiting_rows=queue.rows,
                run_s=facts.curve.seconds(rows),
                load_s=0.0 if served.name in resident else max(served.footprint.load_s, 1e-6),
                last_served=queue.last_served,
                head_arrival=head.arrival,
                due=head.drop_after,
                full=rows >= cap,
                use=served.use,
            )
        )
    return found, wake_at


def any_full(waiting: Iterable[ServedModel], now: float) -> bool:
    """Is there a queue whose next batch cannot become larger by waiting?"""
    for served in waiting:
        bucket = served.queue.next_bucket()
        group = None if bucket is None else served.queue.groups.get(bucket)
        if bucket is not None and group is not None and served.fills(bucket, group.rows, now):
            return True
    return False


def queued(choice: Choice, served: ServedModel) -> Queued:
    """A choice as dispatch sees it."""
    return Queued(
        model=choice.model,
        bucket=choice.bucket,
        try_batch=choice.rows,
        load_bytes=served.footprint.load_bytes,
        bytes_per_row=served.footprint.bytes_per_row,
        passed_over=served.queue.passed_over,
        full=choice.full,
    )


def device_views(
    models: Mapping[str, ServedModel],
    devices: Mapping[str, DeviceBooks],
    eviction: Eviction,
    now: float,
    *,
    claimant: bool = False,
    worth: bool = True,
) -> list[Device]:
    """The devices that are up as dispatch (or a `claimant`) sees them, with what each model's memory is `worth`, unless
    nothing is to be unloaded."""
    waiting = frozenset(served.name for served in models.values() if served.queue.rows)
    keep: dict[str, float] = {}
    if worth and len(models) > 1 and eviction == "LeastWorth":
        keep = {name: _keep(models[name], now) for one in devices.values() for name in one.held}
    elif worth and len(models) > 1:
        keep = {name: served.queue.last_served for name, served in models.items()}
    return [one.as_device(keep, waiting, now, claimant=claimant) for one in devices.values() if not one.down]


def at_once(choice: Choice, served: ServedModel, devices: Mapping[str, DeviceBooks]) -> RunBatch | None:
    """B5's option 1 for the first queue in order, straight from the books: what `dispatch.decide` would answer where an
    idle device holds the model and has memory for some of its rows; None where that takes a closer look."""
    best: DeviceBooks | None = None
    for books in devices.values():
        held_here = choice.model in books.held and books.idle
        if held_here and (best is None or (-books.free_bytes, books.name) < (-best.free_bytes, best.name)):
            best = books
    if best is None or any(flight.model == choice.model for flight in best.in_flight):
        return None
    wanted = min(choice.rows, best.caps.get(choice.model, UNBOUNDED))
    free = best.free_bytes + best.held[choice.model].retained_bytes
    rows = min(wanted, rows_that_fit(free, served.footprint.bytes_per_row))
    if rows == 0:
        return None
    return RunBatch(
        device=best.name, model=choice.model, bucket=choice.bucket, rows=rows, unload=(), reason="LoadedAndIdle"
    )


def _keep(served: ServedModel, now: float) -> float:
    footprint = served.footprint
    soon = served.demand.at(now) + served.queue.rows / SOON_S
    return keep_value(footprint.load_s, soon, footprint.load_bytes)
