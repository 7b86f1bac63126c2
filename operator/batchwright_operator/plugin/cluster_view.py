"""The view of a cluster: what `plan` reads, in the operator's own cache, so that the same code decides."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from batchwright_operator.kube.client import ApiClient
from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, MODEL_DEPLOYMENT, NODE, POD, PV, PVC
from batchwright_operator.plugin.observe import fill
from batchwright_operator.plugin.operator_metrics import read_metrics
from batchwright_operator.plugin.overview.facts import Gauges, live_loads
from batchwright_operator.plugin.target import ClusterTarget
from batchwright_operator.reconcile.cache import Store
from batchwright_operator.reconcile.interfaces import Watch
from batchwright_operator.reconcile.keys import no_keys
from batchwright_operator.reconcile.live_state import LiveState, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """The cluster as the operator sees it; `gauges` are the operator's own, by name and labels."""

    store: Store
    live: LiveState
    gauges: Gauges
    note: str
    """Why there are no live values; empty if there are."""


async def read_view(client: ApiClient, target: ClusterTarget, watches: Iterable[Watch] = ()) -> ClusterView:
    """A view with what these watches name, besides nodes, pods, volumes, profiles and deployments, and the metrics."""
    store = Store()
    shown = [Watch(resource=one, keys=no_keys) for one in (NODE, POD, ACCELERATOR_PROFILE, MODEL_DEPLOYMENT, PV, PVC)]
    await fill(client, store, dict.fromkeys(store.register(watch) for watch in [*shown, *watches]))
    live = LiveState(control_key=b"the plugin applies nothing")
    metrics = await read_metrics(client, target.system, time.time())
    for place, load in live_loads(metrics.gauges).items():
        live.samples[place] = Sample(
            utilization=load.utilization, memory_utilization=load.memory, taken_at=load.taken_at
        )
    return ClusterView(store=store, live=live, gauges=metrics.gauges, note=metrics.problem)
