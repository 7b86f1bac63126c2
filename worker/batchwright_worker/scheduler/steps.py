"""What goes into the scheduler and what comes out: offers, refusals, batches, steps. Pure."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from batchwright_worker.scheduler.dispatch import LoadModel, Nothing, RunBatch
from batchwright_worker.scheduler.queues import Bucket, Slice


class QueueRequest(Struct, frozen=True, kw_only=True):
    """A request for the queues. `deadline` is the caller's own; its rows may share a batch within `bucket`."""

    model: str
    rows: int
    arrival: float
    bucket: Bucket = ()
    deadline: float | None = None
    priority: int = 0


class Refusal(Struct, frozen=True, kw_only=True):
    """An offer that is not taken, with numbers; trying again makes sense after `retry_after_s`."""

    reason: Literal["LatencyTarget", "QueueFull", "Deadline", "Unavailable"]
    message: str
    retry_after_s: float


class Batch(Struct, frozen=True, kw_only=True):
    """A batch to run now. `predicted_s`: its fitted device time; `left_waiting`: rows of its bucket stay behind;
    `serial`: its number, by which the device's timeline knows it."""

    run: RunBatch
    slices: tuple[Slice, ...]
    predicted_s: float
    left_waiting: bool
    serial: int = 0


class Step(Struct, frozen=True, kw_only=True):
    """What to do now: `late` requests to answer as late, `displaced` ones as those for whom there is no room any more,
    then `action`. With Nothing, ask again at `wake_at` (a queue delay ends then) unless something happens before."""

    action: Batch | LoadModel | Nothing
    late: tuple[int, ...] = ()
    wake_at: float | None = None
    displaced: tuple[int, ...] = ()
