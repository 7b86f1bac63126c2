"""The view of a cluster: what the plugin reads, in the operator's own cache, so that the same code decides."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from prometheus_client.parser import text_string_to_metric_families

from batchwright_operator.errors import ApiError
from batchwright_operator.kube.client import ApiClient, path_of
from batchwright_operator.kube.credentials import find_credentials
from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, LEASE, MODEL_DEPLOYMENT, NODE, POD, PV, PVC
from batchwright_operator.reconcile.cache import Store
from batchwright_operator.reconcile.interfaces import Watch
from batchwright_operator.reconcile.keys import no_keys
from batchwright_operator.reconcile.live_state import LiveState, Sample
from batchwright_operator.settings import Settings
from batchwright_worker.api.names import OPERATOR_METRICS_PORT

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterTarget:
    """The cluster that is asked about, and the namespace of its operator."""

    kubeconfig: Path | None
    context: str | None
    namespace: str
    system: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """The cluster as the operator sees it; `gauges` are the operator's own, by name and labels."""

    store: Store
    live: LiveState
    gauges: dict[str, list[tuple[dict[str, str], float]]]
    note: str
    """Why there are no live values; empty if there are."""


def run_with_client(target: ClusterTarget, work: Callable[[ApiClient], Awaitable[T]]) -> T:
    """Runs `work` with a connection to the target."""
    credentials = find_credentials(target.kubeconfig, target.context)

    async def connected() -> T:
        async with ApiClient(credentials) as client:
            return await work(client)

    return asyncio.run(connected())


async def read_view(client: ApiClient, target: ClusterTarget, watches: Iterable[Watch] = ()) -> ClusterView:
    """A view with what these watches name, besides nodes, pods, volumes, profiles and deployments, and the metrics."""
    store = Store()
    shown = [Watch(resource=one, keys=no_keys) for one in (NODE, POD, ACCELERATOR_PROFILE, MODEL_DEPLOYMENT, PV, PVC)]
    list_watches = dict.fromkeys(store.register(watch) for watch in [*shown, *watches])
    for list_watch in list_watches:
        listing = await client.list(
            list_watch.resource,
            label_selector=list_watch.label_selector,
            field_selector=list_watch.field_selector,
            metadata_only=list_watch.metadata_only,
        )
        store.replace(list_watch, listing.items, listing.version)
    live = LiveState(control_key=b"the plugin applies nothing")
    gauges, note = await _metrics(client, target)
    values: dict[tuple[str, str], dict[str, float]] = {}
    for name, field in _SAMPLES.items():
        for labels, value in gauges.get(name, ()):
            values.setdefault((labels["node"], labels["kind"]), {})[field] = value
    live.samples.update({at: _sample(found) for at, found in values.items() if len(found) == len(_SAMPLES)})
    return ClusterView(store=store, live=live, gauges=gauges, note=note)


def _sample(found: dict[str, float]) -> Sample:
    return Sample(
        utilization=found["utilization"], memory_utilization=found["memory_utilization"], taken_at=found["taken_at"]
    )


_SAMPLES = {
    "batchwright_processor_utilization_ratio": "utilization",
    "batchwright_processor_memory_utilization_ratio": "memory_utilization",
    "batchwright_processor_sample_timestamp_seconds": "taken_at",
}


async def _metrics(
    client: ApiClient, target: ClusterTarget
) -> tuple[dict[str, list[tuple[dict[str, str], float]]], str]:
    """The leading replica's metrics, through the API server's proxy; or why there are none.

    A replica's identity is its pod's name and a suffix (`process/operator`), so that the Lease names the pod.
    """
    try:
        lease = await client.get(LEASE, target.system, Settings().lease_name)
        pod = str(lease["spec"].get("holderIdentity") or "").rpartition("_")[0]
        if not pod:
            return {}, "no operator leads at present"
        path = path_of(POD, target.system, f"{pod}:{OPERATOR_METRICS_PORT}", "proxy/metrics")
        return parse(await client.text(path)), ""
    except ApiError as error:
        return {}, f"no live values from the operator in namespace {target.system}: {error}"


def parse(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Prometheus' text format: name -> (labels, value)."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((dict(sample.labels), float(sample.value)))
    return found
