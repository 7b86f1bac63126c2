"""Several models with latency targets on the same devices: what each must leave to the others. Pure.

The policy: every active model is entitled to an equal share of the device's time, and what one does not use the others
have. A model that asks for no more than its share stays within its target; one that asks for more is refused first,
whatever its target. Two means:

- a batch of a model takes no longer than leaves the models with tighter targets in time: a row that arrives just
  after it has begun waits for it and for one batch of its own (`max_batch_s`; at most half of the throughput is given
  up);
- admission expects that the rows of tighter targets, and of models without one, come in between, up to the equal share
  (`capacity_share`); those of looser targets wait, because the queues go by deadline where that matters (`order`).
"""

from __future__ import annotations

import math
from collections.abc import Collection

from batchwright_worker.scheduler.queues import Bucket
from batchwright_worker.scheduler.served_model import ServedModel

IDLE_SHARE = 0.005
"""A model that takes and wants less of the device than this is not active."""
LEAST_LEFT = 0.1
"""However much the others want, admission expects at least this share: 0 would predict an endless wait."""
TIGHTER = 0.9
"""A target below this part of another one is tighter; targets as good as equal make no demands on each other."""


def rebalance(models: Collection[ServedModel], devices: int, now: float) -> None:
    """Give every model what the others leave to it."""
    targets = {served.name: served.target_s for served in models}
    wanted = {served.name: _wanted_share(served, now) / max(1, devices) for served in models}
    active = [served for served in models if wanted[served.name] > IDLE_SHARE]
    equal_share = 1 / max(1, len(active))
    # Nobody counts for more than the equal share: what a model wants beyond it is its own loss, not its neighbours'.
    entitled = {served.name: min(wanted[served.name], equal_share) for served in active}
    share_at: dict[float | None, float] = {}
    longest_at: dict[float, float] = {}
    for served in active:
        target_s = targets[served.name]
        share_at[target_s] = share_at.get(target_s, 0.0) + entitled[served.name]
        if target_s is not None:
            # Its row arrives just after another model's batch has begun: it waits for that one, perhaps for a batch of
            # its own that is ahead of it, and then for its own; only the first of the three is anybody else's.
            longest_s = target_s - 2 * served.batch_s
            longest_at[target_s] = min(longest_at.get(target_s, math.inf), longest_s)
    for served in models:
        served.use = served.used.at(now)
        own = targets[served.name]
        tighter_below = TIGHTER * (math.inf if own is None else own)
        ahead = sum(share for target_s, share in share_at.items() if target_s is None or target_s < tighter_below)
        if own is None:
            ahead -= entitled.get(served.name, 0.0)  # it is itself among those without a target
        longest = (longest_s for target_s, longest_s in longest_at.items() if target_s < tighter_below)
        max_batch_s = min(longest, default=math.inf)
        # Rounded, because every change makes all that was derived of the model be derived again.
        capacity_share = round(max(LEAST_LEFT, 1.0 - ahead), 2)
        served.share(capacity_share, round(max_batch_s, 3) if max_batch_s < math.inf else max_batch_s)


def _wanted_share(served: ServedModel, now: float) -> float:
    """Seconds of device time per second that it uses, or would use in full batches for all that is offered."""
    bucket: Bucket = served.queue.next_bucket() or ()
    facts = served.facts(bucket, now)
    full_s = facts.turnaround.seconds(facts.cap)
    return max(served.used.at(now), facts.rate * full_s / facts.cap)
