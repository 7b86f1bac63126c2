"""Several models with latency targets on the same devices: what each must leave to the others. Pure.

The policy: every active model is entitled to an equal share of the device's time, and what one does not use the others
have. A model that asks for no more than its share stays within its target; one that asks for more is refused first,
whatever its target. Two means:

- a batch of a model takes no longer than leaves the models with tighter targets in time: a row that arrives just
  after it has begun waits for it and for one batch of its own (`room_s`; at most half of the throughput is given up);
- admission expects that the rows of tighter targets, and of models without one, come in between, up to the equal share
  (`left_share`); those of looser targets wait, because the queues go by deadline where that matters (`order`).
"""

from __future__ import annotations

import math
from collections.abc import Collection

from batchwright_worker.scheduler.queues import Bucket
from batchwright_worker.scheduler.served_model import ServedModel

IDLE_SHARE = 0.005
"""A model that takes and wants less of the device than this is not active."""
LEAST_LEFT = 0.1
TIGHTER = 0.9
"""A target below this part of another one is tighter."""


def rebalance(models: Collection[ServedModel], devices: int, now: float) -> None:
    """Tell every model what the others leave to it."""
    targets = {served.name: served.target_s for served in models}
    wanted = {served.name: _wanted_share(served, now) / max(1, devices) for served in models}
    active = [served for served in models if wanted[served.name] > IDLE_SHARE]
    equal = 1 / max(1, len(active))
    takes = {served.name: min(wanted[served.name], equal) for served in active}
    share_of: dict[float | None, float] = {}
    room_of: dict[float, float] = {}
    for served in active:
        target_s = targets[served.name]
        share_of[target_s] = share_of.get(target_s, 0.0) + takes[served.name]
        if target_s is not None:
            room_of[target_s] = min(room_of.get(target_s, math.inf), target_s - 2 * served.batch_s)
    for served in models:
        served.use = served.used.at(now)
        own = targets[served.name]
        bound = TIGHTER * (math.inf if own is None else own)
        taken = sum(share for target_s, share in share_of.items() if target_s is None or target_s < bound)
        if own is None:
            taken -= takes.get(served.name, 0.0)
        room_s = min((room for target_s, room in room_of.items() if target_s < bound), default=math.inf)
        served.share(round(max(LEAST_LEFT, 1.0 - taken), 2), round(room_s, 3) if room_s < math.inf else room_s)


def _wanted_share(served: ServedModel, now: float) -> float:
    """Seconds of device time per second that it uses, or would use in full batches for all that is offered."""
    bucket: Bucket = served.queue.next_bucket() or ()
    facts = served.facts(bucket, now)
    full_s = facts.turn.seconds(facts.cap)
    return max(served.used.at(now), facts.rate * full_s / facts.cap)
