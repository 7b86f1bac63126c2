"""Which batch or load goes next: the queues in their turn, held against the devices as they are at that moment.

It decides and changes no book but one: which queues were passed over. What it has chosen the `scheduler` begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from batchwright_worker.api.deployment import Eviction, QueueOrder
from batchwright_worker.scheduler import dispatch, turns, views
from batchwright_worker.scheduler.devices import Device
from batchwright_worker.scheduler.dispatch import DeviceView, LoadModel, Nothing, RunBatch
from batchwright_worker.scheduler.order import ORDERS, Choice, FairShareState
from batchwright_worker.scheduler.queues import IsolatedBucket
from batchwright_worker.scheduler.served_model import ServedModel

MIXED_S: Final = 5.0
"""Priorities count as mixed for this long after a request of another one."""


@dataclass(slots=True, kw_only=True)
class Chooser:
    """The choices of one scheduler, whose parts these are."""

    order: QueueOrder
    eviction: Eviction
    models: dict[str, ServedModel]
    devices: dict[str, Device]
    levels: dict[int, float]
    fair_share: FairShareState
    load_share: FairShareState

    def in_turn(self, waiting: list[ServedModel], now: float, begins: float) -> tuple[list[Choice], float | None]:
        """The queues in the order in which they are to be served, by a batch that begins then (see `turns`)."""
        moment = views.Moment(now=now, begins=begins, mixed=self._is_mixed(now))
        shares = self.fair_share, self.load_share
        found, wake_at = turns.in_turn(waiting, self.devices, moment, ORDERS[self.order], shares)
        if any(device.timeline.awaits_isolated and device.timeline.interleaves for device in self.devices.values()):
            found = sorted(found, key=lambda choice: not isinstance(choice.bucket, IsolatedBucket))
        return found, wake_at

    def on_idle_device(self, found: list[Choice]) -> RunBatch | None:
        """The first queue on an idle device that holds its model, as nearly always; no views are built for that."""
        if any(self.models[choice.model].queue.passed_over >= dispatch.PASS_LIMIT for choice in found):
            return None  # an overdue queue comes first, wherever it stands in this order
        first = found[0]
        run = dispatch.fast_path(views.queue_view(first, self.models[first.model]), self.devices.values())
        if run is not None:
            self._displace(run.model)
        return run

    def among(self, found: list[Choice], seen: list[DeviceView]) -> RunBatch | LoadModel | Nothing:
        """B5 for the queues in this order."""
        queued = [views.queue_view(choice, self.models[choice.model]) for choice in found]
        outcome = dispatch.decide(queued, seen, self._loading())
        if not isinstance(outcome.action, Nothing):
            for name in outcome.passed_over:
                self.models[name].queue.passed_over += 1
            self._displace(outcome.action.model)
        return outcome.action

    def behind_a_batch(
        self, waiting: list[ServedModel], now: float, seen: list[DeviceView] | None
    ) -> RunBatch | LoadModel | None:
        """What to put behind a batch that runs, on devices that take two (see `dispatch.follow`); `seen`: the devices,
        where they have been viewed already."""
        begins = min((one.free_at(now) for one in self.devices.values() if one.followable), default=now)
        found, _ = self.in_turn(waiting, now, begins)
        if not found:
            return None
        # Only the first queue may follow: a full batch of another one would take the device from it for as long as
        # both batches run.
        first = min(found, key=lambda choice: self.models[choice.model].queue.passed_over < dispatch.PASS_LIMIT)
        queue = views.queue_view(first, self.models[first.model])
        if first.load_s:
            return dispatch.load_behind(queue, seen or self.device_views(now), self._loading())
        run = dispatch.follow_fast(queue, self.devices.values(), now)
        return run or dispatch.follow(queue, seen or self.device_views(now, with_costs=False))

    def may_follow(self, waiting: list[ServedModel], now: float) -> bool:
        """Cheaply: could any of these be put behind a running batch?"""
        most = max((served.queue.rows for served in waiting), default=0)
        for device in self.devices.values():
            if device.followable:
                timeline = device.timeline
                # Learned caps make batches full that are not counted as full below.
                if device.memory.caps or (most >= timeline.least_behind and now >= timeline.follow_at):
                    return True
        return views.any_full(waiting, now)

    def follow_at(self, now: float) -> float | None:
        """When a batch may next be put behind one that runs, as far as that is a matter of time."""
        later = [
            follow_at
            for device in self.devices.values()
            if device.followable and (follow_at := device.timeline.follow_at) > now
        ]
        return min(later, default=None)

    def load(self, model: str, now: float, device: str | None = None) -> LoadModel | str:
        """Where to load a model that nobody waits for (start, explicit load): options 3 and 4, on one device if it is
        given; or why not now."""
        footprint = self.models[model].footprint
        queued = dispatch.QueueView(
            model=model,
            bucket=(),
            try_batch=1,
            load_bytes=footprint.load_bytes,
            bytes_per_row=footprint.bytes_per_row,
        )
        seen = self.device_views(now, reserved=True)
        lacking = [one for one in seen if model not in one.residents and device in (None, one.name)]
        action = dispatch.serve(queued, lacking, model in self._loading())
        assert not isinstance(action, RunBatch)
        return action

    def device_views(self, now: float, *, reserved: bool = False, with_costs: bool = True) -> list[DeviceView]:
        """The devices as decisions see them."""
        return views.device_views(
            self.models, self.devices, self.eviction, now, reserved=reserved, with_costs=with_costs
        )

    def _displace(self, model: str) -> None:
        """Count that a queue was to be first but for the deadlines of others."""
        displaced = self.fair_share.displaced
        if displaced and displaced != model:
            self.models[displaced].queue.passed_over += 1

    def _is_mixed(self, now: float) -> bool:
        """Have requests of several priorities come lately?"""
        levels = self.levels
        return len(levels) > 1 and sum(now - seen < MIXED_S for seen in levels.values()) > 1

    def _loading(self) -> frozenset[str]:
        return frozenset(one.timeline.loading for one in self.devices.values() if one.timeline.loading)
