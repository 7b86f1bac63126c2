"""The engine's mind: queues, admission, residency and dispatch in one state machine. Pure: no clock, no I/O.

Something happens (`offer`, `cancel`, `batch_ended`, `load_ended`, `device_lost`, ...), then the caller asks `next`
until it answers `Nothing` (method B6: decisions on events only). `engine` performs the answers on real runtimes, the
`simulator` on devices of its own; both run this very code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from batchwright_worker.sidecar import admission, dispatch
from batchwright_worker.sidecar.dispatch import LoadModel, Nothing, RunBatch
from batchwright_worker.sidecar.fit import Curve
from batchwright_worker.sidecar.ledger import Ledger
from batchwright_worker.sidecar.outlook import line
from batchwright_worker.sidecar.queues import Apart, Choice, Waiting, ordered
from batchwright_worker.sidecar.residency import Flight, keep_value
from batchwright_worker.sidecar.served import Served
from batchwright_worker.sidecar.steps import Batch, Offer, Refusal, Step


@dataclass(slots=True)
class Scheduler(Ledger):
    """Queues, admission and dispatch over the books of a `Ledger`. Its methods are the only way to change any of it."""

    _keys: int = 0
    _batches: int = 0
    _model_of: dict[int, str] = field(default_factory=dict)

    # --- requests ---

    def offer(self, offer: Offer, now: float) -> int | Refusal:
        """Queue it and return its key, or say why not."""
        served = self.models[offer.model]
        served.offered.arrived(offer.rows, now)
        served.demand.arrived(offer.rows, now)
        served.window.offered += offer.rows
        if not served.queue.has_room(offer.rows):
            return self._full(served, offer, now)
        if served.target_s is None and offer.deadline is None:
            return self._push(served, offer, None)
        curve, found = served.turn(offer.bucket), line(served, offer.bucket, self.models, self.devices, now)
        verdict = admission.judge(curve, found, offer.rows, served.target_s, now - offer.arrival)
        if not verdict.accepted:
            message = (
                f"the answer would take {(now - offer.arrival + verdict.finish_s) * 1e3:.0f} ms; "
                f"the latency target of {served.name} is {(served.target_s or 0) * 1e3:.0f} ms"
            )
            return Refusal(reason="LatencyTarget", message=message, retry_after_s=verdict.retry_after_s)
        if offer.deadline is not None and _hopeless(offer.deadline, now, curve, found, offer.rows):
            message = f"its deadline, in {(offer.deadline - now) * 1e3:.0f} ms, cannot be met"
            return Refusal(reason="Deadline", message=message, retry_after_s=found.free_in_s)
        allowed = None if verdict.allowed_s is None else offer.arrival + verdict.allowed_s
        return self._push(served, offer, _earlier(allowed, offer.deadline))

    def cancel(self, key: int) -> None:
        """Its caller has gone: skip what has not started."""
        name = self._model_of.pop(key, None)
        if name is not None:
            self.models[name].queue.remove(key)

    def expected_wait_s(self, model: str, now: float) -> float:
        """Seconds that a new row of this model would wait before its batch starts."""
        served = self.models[model]
        bucket = served.queue.next_bucket() or ()
        found = line(served, bucket, self.models, self.devices, now)
        return admission.expected_wait_s(served.turn(bucket), found)

    # --- decisions ---

    def next(self, now: float) -> Step:
        """The next thing to do; books and queues are already changed as if it had begun."""
        if not any(books.idle or books.loadable for books in self.devices.values()):
            return self._next_behind(now)
        waiting = [served for served in self.models.values() if served.queue.rows]
        late = tuple(key for served in waiting for key in self._drop_late(served, now, now))
        choices, wake_at = self._choices(waiting, now)
        if not choices:
            return Step(action=Nothing(why={}), late=late, wake_at=wake_at)
        outcome = dispatch.decide([self._queued(choice) for choice in choices], self._devices(now), self._loading())
        match outcome.action:
            case RunBatch() as run:
                self._pass_over(outcome.passed_over)
                return Step(action=self._begin_batch(run, now), late=late)
            case LoadModel() as load:
                self._pass_over(outcome.passed_over)
                return Step(action=self.begin_load(load, now), late=late)
            case Nothing() as nothing:
                behind = self._next_behind(now)
                if isinstance(behind.action, Batch) or behind.late:
                    return replace(behind, late=late + behind.late, wake_at=wake_at)
                return Step(action=nothing, late=late, wake_at=wake_at)

    def _next_behind(self, now: float) -> Step:
        """A batch to put behind one that runs, on devices that take two (see `dispatch.follow`)."""
        late: tuple[int, ...] = ()
        while any(books.followable for books in self.devices.values()):
            waiting = [served for served in self.models.values() if served.queue.rows]
            choices, _ = self._choices(waiting, now)
            run = dispatch.follow([self._queued(choice) for choice in choices], self._devices(now))
            if run is None:
                break
            begins = self.devices[run.device].free_at(now)
            dropped = self._drop_late(self.models[run.model], now, begins)
            if not dropped:
                return Step(action=self._begin_batch(run, now), late=late)
            late += tuple(dropped)
        return Step(action=Nothing(why={}), late=late)

    def plan_load(self, model: str, now: float, device: str | None = None) -> LoadModel | str:
        """Where to load a model that nobody waits for (start, explicit load): options 3 and 4, on one device if it is
        given; or why not now."""
        footprint = self.models[model].footprint
        queued = dispatch.Queued(
            model=model,
            bucket=(),
            try_batch=1,
            load_bytes=footprint.load_bytes,
            bytes_per_row=footprint.bytes_per_row,
        )
        lacking = [one for one in self._devices(now) if model not in one.residents and device in (None, one.name)]
        action = dispatch.serve(queued, lacking, model in self._loading())
        assert not isinstance(action, RunBatch)
        return action

    # --- what happened ---

    def batch_ended(self, batch: Batch, device_s: float, batch_bytes: int, now: float) -> None:
        """A batch is done, well; `device_s` as the runtime measured it."""
        served = self.models[batch.run.model]
        served.ran(batch.run.bucket, batch.run.rows, device_s)
        served.window.ran(batch.run.rows, device_s, batch.left_waiting)
        served.footprint.ran(batch.run.rows, batch_bytes)
        took = self.devices[batch.run.device].end_batch(batch.serial, now)
        if not batch.run.unload:
            served.turned(device_s, took)

    def batch_failed(self, batch: Batch, now: float) -> None:
        """A batch raised; nothing is learned of its time."""
        self.devices[batch.run.device].end_batch(batch.serial, now)

    def block(self, model: str, why: str, until: float) -> list[int]:
        """Do not load it before `until`; the keys that waited for it and are now out of the queue."""
        served = self.models[model]
        served.blocked, served.blocked_until = why, until
        keys = list(served.queue.entries)
        for key in keys:
            self.cancel(key)
        return keys

    def requeue(self, entry: Waiting, model: str) -> int:
        """Put rows back whose batch did not run (in their old place, by arrival); their new key."""
        self._keys += 1
        entry.key = self._keys
        self._model_of[entry.key] = model
        self.models[model].queue.push(entry)
        return entry.key

    # --- inside ---

    def _push(self, served: Served, offer: Offer, drop_after: float | None) -> int:
        self._keys += 1
        self._model_of[self._keys] = served.name
        served.queue.push(
            Waiting(
                key=self._keys,
                rows=offer.rows,
                arrival=offer.arrival,
                bucket=offer.bucket,
                priority=offer.priority,
                drop_after=drop_after,
            )
        )
        return self._keys

    def _full(self, served: Served, offer: Offer, now: float) -> Refusal:
        wait = self.expected_wait_s(served.name, now)
        message = (
            f"{served.queue.rows} rows wait for {served.name} and {offer.rows} more do not fit: "
            f"maxQueueLength is {served.plan.queue_limit}"
        )
        return Refusal(reason="QueueFull", message=message, retry_after_s=wait)

    def _drop_late(self, served: Served, now: float, begins: float) -> list[int]:
        bucket = served.queue.next_bucket()
        head = served.queue.head(bucket)
        if head is None or head.drop_after is None:
            return []
        curve, cap = served.turn(bucket), served.cap(bucket, now)
        late = served.queue.late(bucket, lambda rows: begins + curve.seconds(rows), cap)
        for key in late:
            self.cancel(key)
        return late

    def _choices(self, waiting: Iterable[Served], now: float) -> tuple[list[Choice], float | None]:
        choices: list[Choice] = []
        wake_at: float | None = None
        resident = {name for books in self.devices.values() for name in books.held}
        for served in waiting:
            bucket = served.queue.next_bucket()
            head = served.queue.head(bucket)
            if head is None:
                continue
            cap = served.cap(bucket, now)
            rows = min(served.queue.groups[bucket].rows, cap)
            ripe_at = head.arrival + served.plan.queue_delay_s
            if rows < cap and now < ripe_at:
                wake_at = _earlier(wake_at, ripe_at)
                continue
            load_s = 0.0 if served.name in resident else served.footprint.load_s
            choices.append(
                Choice(
                    model=served.name,
                    bucket=bucket,
                    rows=rows,
                    waiting_rows=served.queue.rows,
                    waited_s=served.queue.waited_s(bucket, rows, now) if self.order == "Balanced" else 0.0,
                    cost_s=served.curve(bucket).seconds(rows) + load_s,
                    last_served=served.queue.last_served,
                    head_arrival=head.arrival,
                    full=rows >= cap,
                )
            )
        return ordered(choices, self.order), wake_at

    def _queued(self, choice: Choice) -> dispatch.Queued:
        served = self.models[choice.model]
        return dispatch.Queued(
            model=choice.model,
            bucket=choice.bucket,
            try_batch=choice.rows,
            load_bytes=served.footprint.load_bytes,
            bytes_per_row=served.footprint.bytes_per_row,
            passed_over=served.queue.passed_over,
            full=choice.full,
        )

    def _devices(self, now: float) -> list[dispatch.Device]:
        waiting = frozenset(served.name for served in self.models.values() if served.queue.rows)
        several = len(self.models) > 1
        keep = {name: self._keep(served, now) for name, served in self.models.items()} if several else {}
        return [books.as_device(keep, waiting) for books in self.devices.values() if not books.down]

    def _keep(self, served: Served, now: float) -> float:
        footprint = served.footprint
        return keep_value(footprint.load_s, served.demand.at(now), footprint.load_bytes)

    def _loading(self) -> frozenset[str]:
        return frozenset(books.loading for books in self.devices.values() if books.loading)

    def _begin_batch(self, run: RunBatch, now: float) -> Batch:
        served, books = self.models[run.model], self.devices[run.device]
        for victim in run.unload:
            books.unload(victim)
        slices = served.queue.take(run.bucket, run.rows, now)
        for part in slices:
            if part.key not in served.queue.entries:
                self._model_of.pop(part.key, None)
        predicted = served.curve(run.bucket).seconds(run.rows)
        self._batches += 1
        books.start_batch(
            Flight(serial=self._batches, model=run.model, device_s=predicted, apart=isinstance(run.bucket, Apart)),
            now,
            served.overhead_s,
        )
        left = run.bucket in served.queue.groups
        return Batch(run=run, slices=tuple(slices), predicted_s=predicted, left_waiting=left, serial=self._batches)

    def _pass_over(self, models: tuple[str, ...]) -> None:
        for name in models:
            self.models[name].queue.passed_over += 1


def _earlier(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _hopeless(deadline: float, now: float, curve: Curve, found: admission.Line, rows: int) -> bool:
    if deadline <= now:
        return True
    return curve.known and now + admission.expected_finish_s(curve, found, rows) > deadline
