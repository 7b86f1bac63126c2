"""When rebalancing looks at the cluster: once a window. No change begins a pass, as what counts is what lasts."""

from __future__ import annotations

import asyncio

from batchwright_operator.pods.state_follower import SessionFactory
from batchwright_operator.rebalance.reconciler import KEY
from batchwright_operator.reconcile.interfaces import Queue, StoreView
from batchwright_operator.reconcile.live_state import LiveState
from batchwright_operator.settings import Settings


class RebalanceClock:
    """The `Background` that begins a pass in every window. While a move is under way they follow each other."""

    def __init__(self, settings: Settings, live: LiveState, session_factory: SessionFactory) -> None:
        self._window_s = settings.rebalance_window_seconds

    async def run(self, store: StoreView, queue: Queue) -> None:
        """Runs until cancelled."""
        while True:
            queue.add(KEY)
            await asyncio.sleep(self._window_s)
