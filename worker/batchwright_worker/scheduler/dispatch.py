"""Which batch runs next, and where (method B5). Pure: from queues and devices to one decision, a value.

B5's four options per queue, in the queues' order. *(ours)* the next queues are tried when the first cannot be served;
a queue passed over `PASS_LIMIT` times gets the next fitting device for itself; only as many idle models are unloaded
as are needed, the least (reload cost x demand / bytes) first; where a model is alone on a device and, as measured,
not even one row fits, one row is tried all the same (nothing can make more room, so waiting would last forever; the
runtime's own answer is the truth).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from batchwright_worker.scheduler.devices import UNBOUNDED, Device, DeviceMemory, DeviceTimeline
from batchwright_worker.scheduler.queues import Bucket, IsolatedBucket

PASS_LIMIT = 16
"""A queue that was passed over this often comes first, wherever it stands in the order: nobody starves."""
Reason = Literal["LoadedAndIdle", "LoadedAfterUnload", "FreeMemory", "FreeAfterUnload"]


class ResidentView(Struct, frozen=True, kw_only=True):
    """A resident model as dispatch sees it. `eviction_cost`: reload seconds x demand / bytes; `fresh`: loaded for rows
    that still wait and not served since, or about to serve rows that wait while the device is busy (unloading it would
    only thrash). `retained_bytes`: the part of `memory_bytes` that its own next batch uses again."""

    model: str
    memory_bytes: int
    retained_bytes: int = 0
    eviction_cost: float = 0.0
    fresh: bool = False


class DeviceView(Struct, frozen=True, kw_only=True):
    """A device as one decision sees it: `memory` and `timeline` as they are, and what follows from them at this moment.

    `idle` if it can start a batch (`takes_isolated`, `takes_shared`: of rows that run apart, of others), `loadable` if
    it can start a load now, `followable` if a batch may be put behind what it does (`takes_any`: any batch of
    `timeline.least_behind` rows may, not only a full one; `loads_behind`: a load may). `residents` include a model on
    its way in that a batch may be put behind. `busy_models` run a batch or are being loaded."""

    name: str
    memory: DeviceMemory
    timeline: DeviceTimeline
    residents: Mapping[str, ResidentView]
    idle: bool
    loadable: bool
    busy_models: frozenset[str] = frozenset()
    followable: bool = False
    takes_any: bool = False
    loads_behind: bool = False
    takes_isolated: bool = True
    takes_shared: bool = True

    def takes(self, bucket: Bucket) -> bool:
        """Can a batch of this bucket start?"""
        return self.idle and (self.takes_isolated if isinstance(bucket, IsolatedBucket) else self.takes_shared)

    def unloadable(self, model: str) -> list[ResidentView]:
        """Its other idle models that are not fresh, the cheapest to evict first."""
        others = [
            one
            for one in self.residents.values()
            if one.model != model and one.model not in self.busy_models and not one.fresh
        ]
        return sorted(others, key=lambda one: (one.eviction_cost, one.model))

    def alone(self, model: str, unloaded: tuple[str, ...] = ()) -> bool:
        """Is no other model left that could ever make room for this one?"""
        others = (set(self.residents) | self.busy_models) - {model, *unloaded}
        return not others

    def unprotected(self) -> DeviceView:
        """The same with no resident counted as fresh."""
        stale = {name: replace(one, fresh=False) for name, one in self.residents.items()}
        return replace(self, residents=stale)


class QueueView(Struct, frozen=True, kw_only=True):
    """A queue to serve: `try_batch` rows of `bucket` wait (already capped by tuned size and admission's n*).
    `load_bytes` is what loading takes (measured or, before the first load, estimated); `bytes_per_row` what each
    row of a batch takes (0: not known to take any). `full`: waiting would not make the batch larger."""

    model: str
    bucket: Bucket
    try_batch: int
    load_bytes: int
    bytes_per_row: int = 0
    passed_over: int = 0
    full: bool = False


class RunBatch(Struct, frozen=True, kw_only=True):
    """Run `rows` rows of `bucket` on `device`, after unloading `unload` (option 1 or 2)."""

    device: str
    model: str
    bucket: Bucket
    rows: int
    unload: tuple[str, ...]
    reason: Reason


class LoadModel(Struct, frozen=True, kw_only=True):
    """Load `model` on `device`, after unloading `unload` (option 3 or 4); `rows` of `bucket` are waiting for it."""

    device: str
    model: str
    bucket: Bucket
    rows: int
    unload: tuple[str, ...]
    reason: Reason


class Nothing(Struct, frozen=True, kw_only=True):
    """No queue can be served now; `why` per model that has rows waiting."""

    why: Mapping[str, str]


class DispatchDecision(Struct, frozen=True, kw_only=True):
    """The decision, and the models whose queue came earlier in the order but could not be served."""

    action: RunBatch | LoadModel | Nothing
    passed_over: tuple[str, ...] = ()


def decide(
    queues: Sequence[QueueView], devices: Sequence[DeviceView], loading: frozenset[str] = frozenset()
) -> DispatchDecision:
    """The first queue in order that one of B5's options serves. Models in `loading` are on their way: they wait.

    A queue passed over PASS_LIMIT times comes first, and the device that suits it best is kept for it. Fresh models
    are unloaded only from idle devices, and only when nothing at all could be served otherwise.
    """
    outcome = _decide(queues, devices, loading)
    # Two models that make room for each other again and again would serve nobody; but where nothing else can be served
    # a fresh one must go all the same: no event would ever end that wait.
    has_fresh = any(one.fresh for device in devices if device.idle for one in device.residents.values())
    if isinstance(outcome.action, Nothing) and has_fresh:
        return _decide(queues, [device.unprotected() if device.idle else device for device in devices], loading)
    return outcome


def follow(queue: QueueView, devices: Sequence[DeviceView]) -> RunBatch | None:
    """The batch of this queue, the next one in order, to put behind a running one: whole, without unloading anything,
    and only if waiting could not improve it (it is full already, or what runs is about to end)."""
    # If the runtime dies, it must be known which batch it died under: nothing else may be in flight then.
    if isinstance(queue.bucket, IsolatedBucket):
        return None
    able = [device for device in devices if device.followable and queue.model in device.residents]
    for device in sorted(able, key=lambda device: (device.timeline.until, device.name)):
        wanted = min(queue.try_batch, device.memory.caps.get(queue.model, UNBOUNDED))
        takes_it = device.takes_any and wanted >= device.timeline.least_behind
        if not (queue.full or takes_it or wanted < queue.try_batch):
            continue
        # Memory is counted as it is now, with the running batch in it: a batch that does not fit whole, or needs room
        # made, is better decided when that one has ended.
        ran = _run_on(queue, device)
        if ran is not None and not ran.unload and ran.rows == wanted:
            return ran
    return None


def follow_fast(queue: QueueView, devices: Iterable[Device], now: float) -> RunBatch | None:
    """What `follow` would answer, from the device state itself, where one device alone may be given a batch behind the
    one that it runs, holds the model and has memory for all of its rows; None where that takes a closer look."""
    able = [device for device in devices if device.followable]
    if len(able) != 1 or isinstance(queue.bucket, IsolatedBucket):
        return None
    memory, timeline = able[0].memory, able[0].timeline
    resident = memory.residents.get(queue.model)
    if resident is None or not timeline.in_flight:
        return None
    wanted = min(queue.try_batch, memory.caps.get(queue.model, UNBOUNDED))
    takes_it = wanted >= timeline.least_behind and now >= timeline.follow_at
    if not (queue.full or takes_it or wanted < queue.try_batch):
        return None
    if rows_that_fit(memory.free_bytes + resident.retained_bytes, queue.bytes_per_row) < wanted:
        return None
    return RunBatch(
        device=able[0].name, model=queue.model, bucket=queue.bucket, rows=wanted, unload=(), reason="LoadedAndIdle"
    )


def load_behind(queue: QueueView, devices: Sequence[DeviceView], loading: frozenset[str]) -> LoadModel | None:
    """The load to put behind a batch that is about to end: for this queue, the next one in order, whose model is not
    resident anywhere. The model of that batch may make room for it."""
    if queue.model in loading:
        return None
    able = [
        replace(device, busy_models=device.busy_models - device.timeline.unloadable_behind)
        for device in devices
        if device.loads_behind and queue.model not in device.memory.load_blocked
    ]
    loads = (_load_on(queue, device) for device in _most_free_first(able))
    return next((load for load in loads if load is not None), None)


def _decide(queues: Sequence[QueueView], devices: Sequence[DeviceView], loading: frozenset[str]) -> DispatchDecision:
    passed: list[str] = []
    why: dict[str, str] = {}
    reserved: set[str] = set()
    overdue_first = sorted(queues, key=lambda queue: queue.passed_over < PASS_LIMIT)
    for queue in overdue_first:
        action = serve(queue, [device for device in devices if device.name not in reserved], queue.model in loading)
        if not isinstance(action, str):
            return DispatchDecision(action=action, passed_over=tuple(passed))
        why[queue.model] = action
        # A model that is being loaded is served next anyway: its queue is not overtaken, it is under way.
        if queue.model not in loading:
            passed.append(queue.model)
            if queue.passed_over >= PASS_LIMIT and (kept := _reserve(queue, devices)) is not None:
                reserved.add(kept)
    return DispatchDecision(action=Nothing(why=why))


def serve(queue: QueueView, devices: Sequence[DeviceView], is_loading: bool = False) -> RunBatch | LoadModel | str:
    """One queue by B5's options 1 to 4; a sentence when none gives a batch."""
    holders = [device for device in devices if queue.model in device.residents]
    able = [device for device in holders if device.takes(queue.bucket)]
    able = [device for device in able if queue.model not in device.busy_models or _takes_behind(device.timeline, queue)]
    for device in _most_free_first(able):
        ran = _run_on(queue, device)
        if ran is not None:
            return ran
    if is_loading:
        return f"{queue.model} is being loaded"
    lacking = [device for device in devices if device not in holders and queue.model not in device.memory.load_blocked]
    for device in _most_free_first(device for device in lacking if device.loadable):
        loaded = _load_on(queue, device)
        if loaded is not None:
            return loaded
    return _why_not(queue, devices, holders)


def fast_path(queue: QueueView, devices: Iterable[Device]) -> RunBatch | None:
    """B5's option 1 for the first queue in order, from the device state itself: what `decide` would answer where an
    idle device holds the model and has memory for some of its rows; None where that takes a closer look."""
    best: Device | None = None
    isolated = isinstance(queue.bucket, IsolatedBucket)
    for device in devices:
        able = (device.takes_isolated if isolated else device.takes_shared) and queue.model in device.memory.residents
        if able and (best is None or _room(device) < _room(best)):
            best = device
    if best is None or (best.timeline.in_flight and best.runs(queue.model) and not _takes_behind(best.timeline, queue)):
        return None
    memory = best.memory
    wanted = min(queue.try_batch, memory.caps.get(queue.model, UNBOUNDED))
    free_bytes = memory.free_bytes + memory.residents[queue.model].retained_bytes
    rows = min(wanted, rows_that_fit(free_bytes, queue.bytes_per_row))
    if rows == 0:
        return None
    return RunBatch(
        device=best.name, model=queue.model, bucket=queue.bucket, rows=rows, unload=(), reason="LoadedAndIdle"
    )


def _takes_behind(timeline: DeviceTimeline, queue: QueueView) -> bool:
    if isinstance(queue.bucket, IsolatedBucket):
        return False
    return timeline.takes_behind(queue.model, queue.try_batch, queue.full)


def _run_on(queue: QueueView, device: DeviceView) -> RunBatch | None:
    """Options 1 and 2 on one device that holds the model."""
    wanted = min(queue.try_batch, device.memory.caps.get(queue.model, UNBOUNDED))
    own = device.residents[queue.model].retained_bytes
    rows = min(wanted, rows_that_fit(device.memory.free_bytes + own, queue.bytes_per_row))
    reason: Reason = "LoadedAndIdle"
    unload: tuple[str, ...] = ()
    if rows == 0:
        reason = "LoadedAfterUnload"
        unload, free = make_room(device, queue.model, wanted * queue.bytes_per_row - own)
        rows = min(wanted, rows_that_fit(free + own, queue.bytes_per_row))
    if rows == 0 and device.alone(queue.model, unload):
        rows = 1
    if rows == 0:
        return None
    return RunBatch(device=device.name, model=queue.model, bucket=queue.bucket, rows=rows, unload=unload, reason=reason)


def _load_on(queue: QueueView, device: DeviceView) -> LoadModel | None:
    """Options 3 and 4 on one device that lacks the model."""
    wanted = min(queue.try_batch, device.memory.caps.get(queue.model, UNBOUNDED))
    rows = min(wanted, rows_that_fit(device.memory.free_bytes - queue.load_bytes, queue.bytes_per_row))
    reason: Reason = "FreeMemory"
    unload: tuple[str, ...] = ()
    if rows == 0:
        reason = "FreeAfterUnload"
        unload, free = make_room(device, queue.model, queue.load_bytes + wanted * queue.bytes_per_row)
        rows = min(wanted, rows_that_fit(free - queue.load_bytes, queue.bytes_per_row))
    if rows == 0 and device.alone(queue.model, unload) and device.memory.capacity_bytes >= queue.load_bytes:
        rows = 1
    if rows == 0:
        return None
    return LoadModel(
        device=device.name, model=queue.model, bucket=queue.bucket, rows=rows, unload=unload, reason=reason
    )


def rows_that_fit(free_bytes: int, bytes_per_row: int) -> int:
    """Rows of a batch that fit in `free_bytes`; 0 if there is not even that much."""
    if free_bytes < 0:
        return 0
    return UNBOUNDED if bytes_per_row <= 0 else free_bytes // bytes_per_row


def make_room(device: DeviceView, model: str, needed_bytes: int) -> tuple[tuple[str, ...], int]:
    """Which idle models to unload so that `needed_bytes` are free (as many as needed, all if even that is too
    little), and the bytes that are free then. A victim that a later, larger one makes needless is kept."""
    free, chosen = device.memory.free_bytes, []
    for one in device.unloadable(model):
        if free >= needed_bytes:
            break
        chosen.append(one)
        free += one.memory_bytes
    for one in sorted(chosen, key=lambda one: -one.eviction_cost):
        if free - one.memory_bytes >= needed_bytes:
            chosen.remove(one)
            free -= one.memory_bytes
    return tuple(one.model for one in chosen), free


def _most_free_first(devices: Iterable[DeviceView]) -> list[DeviceView]:
    return sorted(devices, key=_room)


def _room(device: Device | DeviceView) -> tuple[int, str]:
    """Ranks first what has most free memory."""
    return (-device.memory.free_bytes, device.name)


def _reserve(queue: QueueView, devices: Sequence[DeviceView]) -> str | None:
    """The device kept for an overdue queue: one that holds the model, else the largest."""
    holders = [device for device in devices if queue.model in device.residents]
    able = holders or [device for device in devices if device.memory.capacity_bytes >= queue.load_bytes]
    return max(able, key=lambda device: (device.memory.capacity_bytes, device.name)).name if able else None


def _why_not(queue: QueueView, devices: Sequence[DeviceView], holders: Sequence[DeviceView]) -> str:
    if not devices:
        return "no device is there"
    if any(not device.idle for device in (holders or devices)):
        return "every device that could run it is busy"
    most = max(device.memory.capacity_bytes for device in devices)
    needed = queue.load_bytes + queue.bytes_per_row
    return f"{queue.model} and one row need {needed} bytes; the largest device has {most}"
