"""The queues that could be served now, and the devices, as `order` and `dispatch` see them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from batchwright_worker.api.deployment import Eviction
from batchwright_worker.scheduler.devices import Device
from batchwright_worker.scheduler.dispatch import DeviceView, QueueView, ResidentView
from batchwright_worker.scheduler.order import Choice
from batchwright_worker.scheduler.queues import Group, QueuedRequest, level_of
from batchwright_worker.scheduler.served_model import BucketFacts, ServedModel

SOON_S = 1.0
"""Rows that wait count as demand of this many seconds."""


class Moment(Struct, frozen=True, kw_only=True, gc=False):
    """`now`, when a batch that is decided now `begins`, and whether requests of several priorities have come lately
    (`mixed`)."""

    now: float
    begins: float
    mixed: bool = False


def choices(
    waiting: Iterable[ServedModel], devices: Mapping[str, Device], moment: Moment
) -> tuple[list[Choice], float | None]:
    """What the next batch of every queue would be, and when the first that is not ripe yet (maxQueueDelay) will be."""
    now = moment.now
    found: list[Choice] = []
    wake_at: float | None = None
    for served in waiting:
        queue = served.queue
        bucket = queue.next_bucket()
        head = queue.head(bucket)
        if head is None:
            continue
        facts = served.facts(bucket, now)
        cap = facts.cap
        group = queue.groups[bucket]
        rows = min(group.rows, cap)
        ripe_at = head.arrival + served.config.queue_delay_s
        if rows < cap and now < ripe_at:
            wake_at = ripe_at if wake_at is None else min(wake_at, ripe_at)
            continue
        # A full batch is no better later, but for rows of higher priority that may still come.
        full = rows >= cap and not moment.mixed
        if group.levels is not None:
            rows = _in_time_for_the_first(head, group, facts, rows, moment.begins)
        found.append(
            Choice(
                model=served.name,
                bucket=bucket,
                rows=rows,
                waiting_rows=queue.rows,
                run_s=facts.curve.seconds(rows),
                load_s=0.0 if _is_there(served.name, devices) else max(served.footprint.load_s, 1e-6),
                last_served=queue.last_served,
                head_arrival=head.arrival,
                due=head.drop_after,
                full=full,
                use=served.use,
                level=level_of(head.priority),
            )
        )
    return found, wake_at


def _is_there(model: str, devices: Mapping[str, Device]) -> bool:
    """Is it resident somewhere, or on its way in?"""
    return any(model in device.memory.residents or model == device.timeline.expects for device in devices.values())


def _in_time_for_the_first(head: QueuedRequest, group: Group, facts: BucketFacts, rows: int, begins: float) -> int:
    """Rows of a batch, fewer where rows of lower priority would make the first ones late. (Not among equals: smaller
    batches would serve fewer rows, and more would be late.)"""
    if head.drop_after is None or begins + facts.turnaround.seconds(rows) <= head.drop_after:
        return rows
    own = min(rows, group.ahead(level_of(head.priority)))
    return max(own, facts.turnaround.largest_within(head.drop_after - begins, rows))


def any_full(waiting: Iterable[ServedModel], now: float) -> bool:
    """Is there a queue whose next batch cannot become larger by waiting?"""
    for served in waiting:
        bucket = served.queue.next_bucket()
        group = None if bucket is None else served.queue.groups.get(bucket)
        if bucket is not None and group is not None and served.fills(bucket, group.rows, now):
            return True
    return False


def queue_view(choice: Choice, served: ServedModel) -> QueueView:
    """A choice as dispatch sees it."""
    return QueueView(
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
    devices: Mapping[str, Device],
    eviction: Eviction,
    now: float,
    *,
    reserved: bool = False,
    with_costs: bool = True,
) -> list[DeviceView]:
    """The devices that are up as dispatch sees them, or a load that has `reserved` them; `with_costs` of evicting each
    model, unless nothing is to be unloaded."""
    waiting = frozenset(served.name for served in models.values() if served.queue.rows)
    costs: dict[str, float] = {}
    if with_costs and len(models) > 1 and eviction == "LeastWorth":
        costs = {name: _eviction_cost(models[name], now) for one in devices.values() for name in one.memory.residents}
    elif with_costs and len(models) > 1:
        costs = {name: served.queue.last_served for name, served in models.items()}
    return [_device_view(one, costs, waiting, now, reserved=reserved) for one in devices.values() if not one.down]


def _device_view(
    device: Device, costs: Mapping[str, float], waiting: frozenset[str], now: float, *, reserved: bool
) -> DeviceView:
    memory, timeline = device.memory, device.timeline
    serves_meanwhile = timeline.overlaps_loads and bool(timeline.in_flight)
    residents = {
        model: ResidentView(
            model=model,
            memory_bytes=resident.memory_bytes + resident.retained_bytes,
            retained_bytes=resident.retained_bytes,
            eviction_cost=costs.get(model, 0.0),
            fresh=model in waiting and (not resident.has_served or serves_meanwhile),
        )
        for model, resident in memory.residents.items()
    }
    followable = device.followable
    takes_any = followable and now >= timeline.follow_at
    behind_load = timeline.expects != "" and not timeline.overlaps_loads and not timeline.in_flight
    if behind_load and takes_any:
        residents[timeline.expects] = ResidentView(model=timeline.expects, memory_bytes=0, fresh=True)
    return DeviceView(
        name=device.name,
        memory=memory,
        timeline=timeline,
        residents=residents,
        idle=device.idle,
        loadable=device.loadable_reserved if reserved else device.loadable,
        busy_models=frozenset([*(flight.model for flight in timeline.in_flight), timeline.loading]) - {""},
        followable=takes_any if behind_load else followable,
        takes_any=takes_any,
        loads_behind=takes_any and not timeline.loading,
        takes_isolated=device.takes_isolated,
        takes_shared=device.takes_shared,
    )


def _eviction_cost(served: ServedModel, now: float) -> float:
    """Reload seconds x demand / bytes: what the memory of an idle model is worth. With 50 models in memory for 10 it
    gives a p99 of 1.9 s, evicting the least recently used one 2.3 s (docs/measurements.md)."""
    footprint = served.footprint
    demand = served.demand.at(now) + served.queue.rows / SOON_S
    return max(footprint.load_s, 1e-4) * demand / max(footprint.load_bytes, 1)
