"""The search for a poison request, one that kills its runtime: a batch that a runtime died under is tried again in
halves, each isolated from all other rows, until the poison request is alone. Pure.

Where the runtime worked on other batches or a load as well (layerwise), the batch is first tried again as it is, but
apart: most of those batches are innocent, and whoever was alone in one was not alone under the loss.

The others are answered as soon as their part of the batch has run well; the poison request is alone after log2(n) + 1
losses and quarantined when it has been alone under a dying runtime twice: one such loss can be bad luck. Where the
runtimes die under everything the search ends after `MOST_IN_A_ROW` losses, with an error for all that it still holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from batchwright_worker.scheduler.queues import Bucket, IsolatedBucket, together

MOST_ALONE: Final = 2
"""This many runtimes may die under a request that is alone in its batch; then it is what kills them."""
MOST_IN_A_ROW: Final = 16
"""After this many losses under one model with no batch that ran well between, it is not a single request that kills."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoisonDecision:
    """What becomes of the requests of a lost batch: if it `fails`, all get an error, `reason`; else they wait again,
    the first `sizes[0]` requests in the bucket `buckets[0]` of their own, and so on. `alone`: the lost batch was one
    request, and nothing else ran."""

    fails: bool = False
    reason: str = ""
    alone: bool = False
    sizes: tuple[int, ...] = ()
    buckets: tuple[Bucket, ...] = ()


@dataclass(slots=True)
class PoisonSearch:
    """One per engine: it needs every loss (`lost`) and every batch that ran well (`ran`)."""

    _groups: int = 0
    _in_a_row: dict[str, int] = field(default_factory=dict)

    def ran(self, model: str) -> None:
        """A batch of this model has run well."""
        if self._in_a_row:
            self._in_a_row.pop(model, None)

    def lost(self, model: str, bucket: Bucket, alone_before: Sequence[int], *, beside: bool = False) -> PoisonDecision:
        """The runtime died while it ran a batch of these requests (in order; per request how often a runtime has died
        before while it was alone), and maybe something else `beside` it."""
        in_a_row = self._in_a_row[model] = self._in_a_row.get(model, 0) + 1
        alone = len(alone_before) == 1 and not beside
        if alone and alone_before[0] + 1 >= MOST_ALONE:
            reason = f"quarantined: {MOST_ALONE} runtimes of model {model} were lost while it ran alone"
            return PoisonDecision(fails=True, alone=True, reason=reason)
        if in_a_row >= MOST_IN_A_ROW:
            reason = f"the runtimes of model {model} were lost {in_a_row} times in a row, whatever they ran"
            return PoisonDecision(fails=True, alone=alone, reason=reason)
        half = len(alone_before) if beside else (len(alone_before) + 1) // 2
        sizes = tuple(size for size in (half, len(alone_before) - half) if size)
        return PoisonDecision(alone=alone, sizes=sizes, buckets=tuple(self._apart(bucket) for _ in sizes))

    def _apart(self, bucket: Bucket) -> IsolatedBucket:
        self._groups += 1
        return IsolatedBucket(together(bucket), self._groups)
