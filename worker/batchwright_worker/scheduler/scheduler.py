"""The scheduler of batches: what happened (offers, ends of batches and loads, losses), and what is begun in answer.
Pure: no clock, no I/O. What goes next `choosing` says.

Something happens (`offer`, `cancel`, `batch_ended`, `load_ended`, `runtime_lost`, ...), then the caller asks `next`
until it answers `Nothing` (method B6: decisions on events only). `engine` performs the answers on real runtimes, the
`simulator` on devices of its own; both run this very code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import msgspec

from batchwright_worker.api.deployment import Eviction, QueueOrder
from batchwright_worker.inference.runtime import LoadReport, MemoryReport
from batchwright_worker.scheduler import admission, fair_share, offers
from batchwright_worker.scheduler.backlog import expected_backlog
from batchwright_worker.scheduler.batch_size.tuning import TuningDecision
from batchwright_worker.scheduler.choosing import Chooser
from batchwright_worker.scheduler.devices import Device, DeviceConfig, Flight, ResidentModel, new_device
from batchwright_worker.scheduler.dispatch import DeviceView, LoadModel, Nothing, RunBatch
from batchwright_worker.scheduler.order import ORDERS, FairShareState
from batchwright_worker.scheduler.queues import MIDDLE_PRIORITY, Bucket, IsolatedBucket, QueuedRequest, level_of
from batchwright_worker.scheduler.served_model import ModelConfig, ServedModel, start_serving
from batchwright_worker.scheduler.steps import Batch, QueueRequest, Refusal, Step
from batchwright_worker.scheduler.window_counts import WindowCounts

NOTHING = Step(action=Nothing(why={}))
REBALANCE_S = 0.02
"""What the models leave to each other may lag this much behind: it takes a pass over all of them."""


@dataclass(slots=True)
class Scheduler:
    """All models and devices of one sidecar, their queues, and every decision about them.

    Only its methods change any of it: a log of the calls, with their plain arguments, is all that it takes to repeat
    every decision (`dispatch_log`).
    """

    order: QueueOrder = "Balanced"
    eviction: Eviction = "LeastWorth"
    models: dict[str, ServedModel] = field(default_factory=dict)
    devices: dict[str, Device] = field(default_factory=dict)
    former: dict[str, list[str]] = field(default_factory=dict)
    """Per lost device what it held, to be loaded when it is back."""
    _keys: int = 0
    _batches: int = 0
    _fair_share: FairShareState = field(default_factory=FairShareState)
    _load_share: FairShareState = field(default_factory=FairShareState)
    """Who is loaded next where loads overlap batches."""
    _rebalance_at: float = 0.0
    _model_of: dict[int, str] = field(default_factory=dict)
    _levels: dict[int, float] = field(default_factory=dict)
    """When a request of each level of priority was offered last."""
    _isolated: set[str] = field(default_factory=set)
    """Models that isolated rows may wait for."""
    _displaced: list[int] = field(default_factory=list)
    """Requests that have made room for others and are not reported yet."""
    _chooser: Chooser = field(init=False, repr=False, compare=False)
    """Made of the above."""

    def __post_init__(self) -> None:
        self._chooser = Chooser(
            order=self.order,
            eviction=self.eviction,
            models=self.models,
            devices=self.devices,
            levels=self._levels,
            fair_share=self._fair_share,
            load_share=self._load_share,
        )

    # --- models and devices ---

    def holders(self, model: str) -> list[Device]:
        """Devices that hold the model."""
        return [device for device in self.devices.values() if device.holds(model)]

    def blocked_everywhere(self, model: str) -> bool:
        """Is it in no memory, and must not be loaded on any device that is up?"""
        up = [device for device in self.devices.values() if not device.down]
        return not self.holders(model) and all(model in device.memory.load_blocked for device in up)

    def add_model(self, config: ModelConfig, now: float) -> ServedModel:
        self.models[config.name] = served = start_serving(config, now)
        return served

    def reconfigure(self, config: ModelConfig) -> int:
        """Other targets, bounds and limits for a model as it is served; its batch size by them."""
        served = self.models[config.name]
        served.reconfigure(config)
        self._rebalance_at = 0.0
        return served.tuner.size

    def add_device(self, config: DeviceConfig, up: bool) -> Device:
        """A device whose runtime is `up`, or will be with `runtime_back`."""
        self.devices[config.name] = device = new_device(config, up)
        return device

    def memory_measured(self, device: str, report: MemoryReport) -> None:
        """A runtime has reported its memory."""
        self.devices[device].memory.measured(report)

    def runtime_lost(self, device: str) -> bool:
        """Its process is gone, and with it all that it held; False if that was known already."""
        lost = self.devices[device]
        if lost.down:
            return False
        self.former[device] = lost.lose()
        return True

    def runtime_back(self, device: str) -> list[str]:
        """An empty process has taken its place; the models that the old one held."""
        self.devices[device].down = False
        return self.former.pop(device, [])

    def reserve(self, device: str, to_load: bool = False) -> None:
        """Start nothing more on it until `release`: a load or unload that no row asks for waits for it. A load keeps
        back no batches where it need not wait for them."""
        self.devices[device].reserve(to_load)

    def release(self, device: str, to_load: bool = False) -> None:
        """The end of one reservation."""
        self.devices[device].reserve(to_load, -1)

    # --- requests ---

    def offer(self, offer: QueueRequest, now: float) -> int | Refusal:
        """Queue it and return its key, or say why not."""
        served, rows = self.models[offer.model], offer.rows
        level = level_of(offer.priority)
        served.offer(rows, level, now)
        self._levels[level] = now
        if len(self.models) > 1:
            served.demand.add(rows, now)
        served.window.offered += rows
        if not served.queue.has_room(rows) and not served.queue.can_displace(level, rows):
            return offers.queue_full(offer, served, self.expected_wait_s(served.name, now))
        if served.target_s is None and offer.deadline is None:
            return self._push(served, offer, None)
        if len(self.models) > 1:
            self._rebalance(now)
        backlog = self._backlog(served, offer.bucket, level, now)
        verdict = offers.judged(offer, served, backlog, self.devices, now)
        return verdict if isinstance(verdict, Refusal) else self._push(served, offer, verdict)

    def cancel(self, key: int) -> None:
        """Its caller has disconnected: skip what has not started."""
        name = self._model_of.pop(key, None)
        if name is not None:
            self.models[name].queue.remove(key)

    def expected_wait_s(self, model: str, now: float) -> float:
        """Seconds that a new row of this model would wait before its batch starts."""
        served = self.models[model]
        bucket = served.queue.next_bucket() or ()
        return admission.expected_wait_s(self._backlog(served, bucket, MIDDLE_PRIORITY, now))

    # --- decisions ---

    def next(self, now: float) -> Step:
        """The next thing to do; the state has changed already as if it had begun."""
        step = self._next(now)
        if not self._displaced:
            return step
        displaced, self._displaced = tuple(self._displaced), []
        return msgspec.structs.replace(step, displaced=displaced)

    def _next(self, now: float) -> Step:
        free = behind = False
        for device in self.devices.values():
            if not device.down and not device.reservations:
                timeline = device.timeline
                free = free or timeline.takes_batch or timeline.takes_load
                behind = behind or timeline.takes_follower
        waiting = [served for served in self.models.values() if served.queue.rows]
        if self._isolated:
            self._hold_for_isolated()
        if not waiting or not free:
            return self._next_behind(now) if waiting and behind else NOTHING
        # Late rows go before the queues are ordered: they must neither fill a batch nor make their queue the first.
        late = tuple(key for served in waiting for key in self._drop_late(served, now, now))
        chooser = self._chooser
        found, wake_at = chooser.in_turn(waiting, now, now)
        if not found:
            return Step(action=Nothing(why={}), late=late, wake_at=wake_at)
        run = chooser.on_idle_device(found)
        if run is not None:
            return Step(action=self._begin_batch(run, now), late=late)
        seen = chooser.device_views(now)
        match chooser.among(found, seen):
            case RunBatch() as run:
                return Step(action=self._begin_batch(run, now), late=late)
            case LoadModel() as load:
                return Step(action=self._begin_load_in_turn(load, now), late=late)
            case Nothing() as nothing:
                # A device was free, but for none of these queues (its memory holds other models, say): the first of
                # them may still go behind what another device runs.
                step = self._next_behind(now, seen) if behind else NOTHING
                wake_at = admission.earlier(wake_at, step.wake_at)
                then = nothing if isinstance(step.action, Nothing) else step.action
                return Step(action=then, late=late + step.late, wake_at=wake_at)

    def _next_behind(self, now: float, seen: list[DeviceView] | None = None) -> Step:
        """A batch, or a load, to put behind one that runs; `seen`: the devices, where they have been viewed already."""
        chooser = self._chooser
        late: tuple[int, ...] = ()
        while True:
            waiting = [served for served in self.models.values() if served.queue.rows]
            action = chooser.behind_a_batch(waiting, now, seen) if chooser.may_follow(waiting, now) else None
            if action is None:
                return Step(action=Nothing(why={}), late=late, wake_at=chooser.follow_at(now))
            if isinstance(action, LoadModel):
                return Step(action=self._begin_load_in_turn(action, now), late=late)
            # The batch begins when what runs has ended. Rows that are late by then are dropped now, and the batch is
            # chosen again: without them it is smaller, or another queue is first.
            dropped = self._drop_late(self.models[action.model], now, self.devices[action.device].free_at(now))
            if not dropped:
                return Step(action=self._begin_batch(action, now), late=late)
            late += tuple(dropped)
            seen = None

    def plan_load(self, model: str, now: float, device: str | None = None) -> LoadModel | str:
        """See `Chooser.load`."""
        if self._isolated:
            self._hold_for_isolated()
        return self._chooser.load(model, now, device)

    # --- batches ---

    def batch_ended(self, batch: Batch, device_s: float, batch_bytes: int, now: float) -> None:
        """A batch is done, well; `device_s` as the runtime measured it."""
        served = self.models[batch.run.model]
        served.ran_at = now
        served.ran(batch.run.bucket, batch.run.rows, device_s)
        served.footprint.ran(batch.run.rows, batch_bytes)
        timeline = self.devices[batch.run.device].timeline
        timeline.suspect.discard(batch.run.model)
        # A batch that waited for unloads took longer than it will without: that says nothing of the round trip.
        took = timeline.end_batch(batch.serial, now, None if batch.run.unload else device_s)
        if not batch.run.unload:
            served.turnaround_measured(device_s, took)
        turn_s = device_s + served.overhead_s if batch.run.unload else took
        served.window.ran(batch.run.rows, turn_s, batch.left_waiting, served.is_sized(batch.run.bucket))

    def batch_suspect(self, batch: Batch) -> None:
        """It takes more than one run: its model stays in memory until a batch of it has ended well."""
        self.devices[batch.run.device].timeline.suspect.add(batch.run.model)

    def batch_failed(self, batch: Batch, now: float) -> None:
        """A batch raised; nothing is learned of its time."""
        self.devices[batch.run.device].timeline.end_batch(batch.serial, now)
        self.batch_suspect(batch)

    def block(self, model: str, why: str, until: float) -> list[int]:
        """Do not load it before `until`; the keys that waited for it and are now out of the queue."""
        served = self.models[model]
        served.blocked, served.blocked_until = why, until
        keys = list(served.queue.entries)
        for key in keys:
            self.cancel(key)
        return keys

    def requeue(self, entry: QueuedRequest, model: str) -> int:
        """Put rows back whose batch did not run, in their old place by arrival; their new key."""
        self._keys += 1
        entry.key = self._keys
        self._model_of[entry.key] = model
        self.models[model].queue.push(entry)
        if isinstance(entry.bucket, IsolatedBucket):
            self._isolated.add(model)
        return entry.key

    def retention_measured(self, batch: Batch, retained_bytes: int) -> None:
        """What the model keeps of its batches' memory on that device, as the runtime measured it."""
        resident = self.devices[batch.run.device].memory.residents.get(batch.run.model)
        if resident is not None:
            resident.retained_bytes = retained_bytes

    def out_of_memory(self, device: str, model: str, rows: int) -> int:
        """A batch of `rows` did not fit; the most rows that are tried from now on."""
        return self.devices[device].memory.limit(model, rows)

    def make_room(self, device: str, model: str, now: float) -> str | None:
        """The device has found that not even one row of the model fits, or its load: the idle model that is to be
        unloaded, the cheapest to evict, None if there is none. What was learned of batches that do not fit is
        forgotten."""
        view = next((one for one in self._chooser.device_views(now) if one.name == device), None)
        idle = [] if view is None else view.unprotected().unloadable(model)
        if not idle:
            return None
        memory = self.devices[device].memory
        memory.unload(idle[0].model)
        memory.caps.pop(model, None)
        memory.load_blocked.discard(model)
        return idle[0].model

    def answered(self, model: str, rows: int, latency_s: float) -> None:
        """A caller has got its result, so long after its arrival; `rows`: the last ones of its request."""
        window = self.models[model].window
        window.latencies.append(latency_s)
        window.rows += rows

    def answered_in_part(self, model: str, rows: int) -> None:
        """These rows of a request have their results, others of it wait or run."""
        self.models[model].window.answered_in_part(rows)

    # --- loads and evictions ---

    def assume_resident(self, device: str, model: str, memory_bytes: int) -> None:
        """It is there and has served already (simulations begin so)."""
        memory = self.devices[device].memory
        memory.residents[model] = ResidentModel(memory_bytes=memory_bytes, has_served=True)
        memory.allocate(memory_bytes)

    def warm_up_ran(self, model: str, rows: int, device_s: float, batch_bytes: int, bucket: Bucket = ()) -> None:
        """A batch of the warm-up has run, of rows of this bucket."""
        served = self.models[model]
        served.ran(bucket, rows, device_s)
        served.footprint.ran(rows, batch_bytes)

    def serve_whole(self, model: str) -> None:
        """Its requests have no rows: each runs alone, as one row."""
        self.models[model].serve_whole()

    def warmed_up(self, model: str) -> int:
        """The warm-up has ended; the batch size to begin with."""
        served = self.models[model]
        served.warmed_up()
        return served.tuner.size

    def begin_load(self, load: LoadModel, now: float) -> LoadModel:
        """A load (and its unloads) is about to be carried out."""
        device, footprint = self.devices[load.device], self.models[load.model].footprint
        for victim in load.unload:
            device.memory.unload(victim)
        device.start_load(load.model, footprint.load_bytes, now, now + footprint.load_s)
        return load

    def load_ended(self, load: LoadModel, report: LoadReport, now: float) -> None:
        """The model is there; a `MemoryReport` should follow."""
        device, served = self.devices[load.device], self.models[load.model]
        served.footprint.loaded(report)
        device.end_load(load.model, served.footprint.load_bytes, now)
        if served.blocked_until < math.inf:  # one that was unloaded by request while it was loaded stays so
            served.blocked = ""

    def load_failed(self, load: LoadModel, now: float) -> None:
        """The load raised; its device is free again, and not tried for this model before `unblock`."""
        device = self.devices[load.device]
        device.fail_load(now)
        device.memory.load_blocked.add(load.model)

    def load_killed_runtime(self, device: str, model: str) -> None:
        """Loading it has cost this device its process again and again: not tried there before `unblock`."""
        self.devices[device].memory.load_blocked.add(model)

    def load_did_not_fit(self, load: LoadModel, now: float) -> bool:
        """The load ran out of memory: next time expect that it needs more than was free, so that idle models make
        room. False if there is nothing that could make room."""
        memory, footprint = self.devices[load.device].memory, self.models[load.model].footprint
        free = memory.free_bytes + footprint.load_bytes
        self.load_failed(load, now)
        if not memory.total_bytes or all(name == load.model for name in memory.residents):
            return False
        footprint.load_bytes = max(footprint.load_bytes, free + 1)
        memory.load_blocked.discard(load.model)
        return True

    def unblock(self, model: str) -> None:
        """Try this model again, everywhere."""
        self.models[model].blocked = ""
        for device in self.devices.values():
            device.memory.load_blocked.discard(model)

    def begin_eviction(self, device: str, model: str) -> None:
        """Take it out of an idle device's memory; the device counts as busy until `eviction_ended`."""
        evicting = self.devices[device]
        evicting.memory.unload(model)
        evicting.timeline.loading = model

    def eviction_ended(self, device: str) -> None:
        """The runtime has given the memory back."""
        self.devices[device].timeline.loading = ""

    # --- windows ---

    def open_window(self, model: str, now: float) -> None:
        """There is traffic again: a window begins; what was offered just now counts in it."""
        served = self.models[model]
        served.window = WindowCounts(began=now, offered=served.window.offered)

    def close_window(self, model: str, now: float) -> tuple[TuningDecision, WindowCounts]:
        """Let the tuner decide on the window that ends now and begin a new one."""
        running = any(device.runs(model) for device in self.devices.values())
        return self.models[model].close_window(now, running=running)

    # --- inside ---

    def _push(self, served: ServedModel, offer: QueueRequest, drop_after: float | None) -> int:
        if not served.queue.has_room(offer.rows):
            self._displaced += served.queue.displace(level_of(offer.priority), offer.rows)
            for key in self._displaced:
                self._model_of.pop(key, None)
        self._keys = key = self._keys + 1
        self._model_of[key] = offer.model
        rows = offer.rows
        served.queue.push(
            QueuedRequest(
                key=key,
                rows=rows,
                arrival=offer.arrival,
                bucket=offer.bucket,
                priority=offer.priority,
                drop_after=drop_after,
                large=rows > 1 and rows > served.facts(offer.bucket, offer.arrival).cap,
            )
        )
        return key

    def _hold_for_isolated(self) -> None:
        """Tell the devices that load beside batches whether isolated rows wait for a model that they hold."""
        queues = {name: self.models[name].queue for name in self._isolated}
        self._isolated = {
            name for name, queue in queues.items() if any(isinstance(one, IsolatedBucket) for one in queue.groups)
        }
        first = [name for name in self._isolated if isinstance(queues[name].next_bucket(), IsolatedBucket)]
        for device in self.devices.values():
            device.timeline.awaits_isolated = device.timeline.overlaps_loads and any(map(device.holds, first))

    def _backlog(self, served: ServedModel, bucket: Bucket, level: int, now: float) -> admission.Backlog:
        several = level if len(self._levels) > 1 else None
        return expected_backlog(served, bucket, self.models, self.devices, now, ORDERS[self.order], several)

    def _drop_late(self, served: ServedModel, now: float, begins: float) -> list[int]:
        late = offers.late(served, self.devices, now, begins)
        for key in late:
            self.cancel(key)
        return late

    def _begin_batch(self, run: RunBatch, now: float) -> Batch:
        served, device = self.models[run.model], self.devices[run.device]
        for victim in run.unload:
            device.memory.unload(victim)
        slices = served.queue.take(run.bucket, run.rows, now)
        waiting, model_of = served.queue.entries, self._model_of
        for part in slices:
            if part.key not in waiting:
                model_of.pop(part.key, None)
        predicted = served.facts(run.bucket, now).curve.seconds(run.rows)
        served.used.add(predicted + served.overhead_s, now)
        if len(self.models) > 1:
            self._fair_share.spent(run.model, predicted + served.overhead_s, loads=False)
        self._batches += 1
        device.start_batch(
            Flight(
                serial=self._batches,
                model=run.model,
                device_s=predicted,
                isolated=isinstance(run.bucket, IsolatedBucket),
                began=now,
                rows=run.rows,
            ),
            now,
            served.overhead_s,
        )
        left = run.bucket in served.queue.groups
        return Batch(run=run, slices=tuple(slices), predicted_s=predicted, left_waiting=left, serial=self._batches)

    def _begin_load_in_turn(self, load: LoadModel, now: float) -> LoadModel:
        overlaps = self.devices[load.device].timeline.overlaps_loads
        share = self._load_share if overlaps else self._fair_share
        share.spent(load.model, self.models[load.model].footprint.load_s, loads=not overlaps)
        return self.begin_load(load, now)

    def _rebalance(self, now: float) -> None:
        """Tell the models what they leave to each other, now and then."""
        if now >= self._rebalance_at:
            self._rebalance_at = now + REBALANCE_S
            up = sum(1 for device in self.devices.values() if not device.down)
            fair_share.rebalance(self.models.values(), up, now)
