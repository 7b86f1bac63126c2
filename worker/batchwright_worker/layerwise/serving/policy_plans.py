"""How batches of these sizes are decided and fetched, planned ahead on a thread of its own: a simulation of some
milliseconds that no batch waits for.

Plans are kept by the sizes that they are for, because sizes that alternate come again. Until there is one for the
newest sizes, the one in force stays; one that is older than `MOST_AGE_S` is used, and made anew meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from batchwright_worker.layerwise.core.policy import Policy
from batchwright_worker.layerwise.core.values import Prefetch

__all__ = ["MOST_AGE_S", "PolicyPlan", "PolicyPlans"]

_LOG = logging.getLogger(__name__)
MOST_AGE_S: Final = 5.0
"""Of a plan in force while batches come: what was measured meanwhile is planned with."""
_MOST_KEPT: Final = 64
Sizes = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyPlan:
    """`policy` makes a fresh one: a policy may remember what it has chosen."""

    policy: Callable[[], Policy]
    prefetch: Prefetch
    made: float = field(default_factory=time.monotonic)


class PolicyPlans:
    """`make` plans for the rows of each model's batches (None: they are no longer to be planned for); it is called on
    the thread of this class, `use` (which puts a plan in force) also on the caller's, where there is a plan already."""

    def __init__(self, make: Callable[[Mapping[str, int]], PolicyPlan | None], use: Callable[[PolicyPlan], None]):
        self._make, self._use = make, use
        self._kept: OrderedDict[Sizes, PolicyPlan] = OrderedDict()
        self._changed = threading.Condition()
        self._wanted: Sizes | None = None
        self._newest: Sizes | None = None
        self._epoch = 0
        """Counts the changes after which no older plan is true."""
        self._closing = False
        self._thread = threading.Thread(target=self._plan_all, name="layerwise plans", daemon=True)
        self._thread.start()

    def follow(self, rows: Mapping[str, int]) -> None:
        """Batches of these sizes come from now on."""
        sizes = tuple(sorted(rows.items()))
        with self._changed:
            plan, self._newest = self._kept.get(sizes), sizes
            if plan is None or time.monotonic() - plan.made > MOST_AGE_S:
                self._wanted = sizes
                self._changed.notify()
            if plan is not None:
                self._kept.move_to_end(sizes)
                self._use(plan)

    def forget(self) -> None:
        """Models have come or gone, or what stays of them in memory has changed: no plan is true any more."""
        with self._changed:
            self._kept.clear()
            self._epoch += 1

    def settled(self, at_most_s: float) -> bool:
        """Wait until nothing is being planned."""
        with self._changed:
            return self._changed.wait_for(lambda: self._wanted is None, at_most_s)

    def close(self) -> None:
        """Plan no more."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _plan_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted is not None or self._closing)
                if self._closing:
                    return
                sizes, epoch = self._wanted, self._epoch
            assert sizes is not None
            plan = self._planned(sizes)
            with self._changed:
                if epoch != self._epoch:
                    continue
                if plan is not None:
                    self._keep(sizes, plan)
                if self._wanted == sizes:
                    self._wanted = None
                self._changed.notify_all()

    def _keep(self, sizes: Sizes, plan: PolicyPlan) -> None:
        self._kept[sizes] = plan
        while len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        if sizes == self._newest:
            self._use(plan)

    def _planned(self, sizes: Sizes) -> PolicyPlan | None:
        try:
            return self._make(dict(sizes))
        except Exception:
            _LOG.exception("batches are decided as before: no plan could be made for %s", sizes)
            return None
