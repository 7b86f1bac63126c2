"""What an overview needs of a cluster, by the user's own rights: where not all of a kind may be listed, those of the
namespace, and where not even those, a note that says so."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from batchwright_operator.errors import Forbidden, NotFound
from batchwright_operator.kube.client import ApiClient
from batchwright_operator.kube.objects import (
    ACCELERATOR_PROFILE,
    CORE_EVENT,
    INFERENCE_JOB,
    MODEL_DEPLOYMENT,
    NODE,
    POD,
    Raw,
)
from batchwright_operator.plugin.operator_metrics import OperatorMetrics, read_metrics
from batchwright_operator.plugin.overview.facts import ClusterFacts
from batchwright_operator.plugin.target import ClusterTarget
from batchwright_operator.reconcile.cache import ListWatch, Store
from batchwright_operator.reconcile.interfaces import Watch
from batchwright_worker.api.names import COMPONENT_MODEL, LABEL_COMPONENT

OUR_EVENTS: Final = "reportingComponent=batchwright.dev/operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What can be seen of a cluster: the cache, its list-watches (still to be filled), and what cannot be seen."""

    title: str
    store: Store
    list_watches: list[ListWatch]
    notes: list[str]


async def look(client: ApiClient, target: ClusterTarget, on_change: Callable[[], None] = lambda: None) -> Sight:
    """Finds out what may be listed. `on_change` is called with every change in the cache. Raises ApiError."""
    store, list_watches, notes = Store(), [], []

    def changed(_: Raw) -> tuple[()]:
        on_change()
        return ()

    for watch in _wanted(changed):
        namespace = target.asked if watch.resource.namespaced else ""
        try:
            await client.count(watch.resource, namespace)
        except NotFound:
            notes.append(f"this cluster has no {watch.resource.plural}: is Batchwright installed there?")
            continue
        except Forbidden as error:
            fallback = await _allowed_here(client, watch, target) if not namespace else ""
            if not fallback:
                notes.append(f"you may not list {watch.resource.plural}: {error}")
                continue
            namespace = fallback
            notes.append(f"of {watch.resource.plural} only those in namespace {namespace}: you may not list all")
        list_watches.append(store.register(watch, namespace))
    return Sight(title=target.title, store=store, list_watches=list_watches, notes=notes)


def _wanted(keys: Callable[[Raw], tuple[()]]) -> list[Watch]:
    plain = [Watch(resource=each, keys=keys) for each in (NODE, ACCELERATOR_PROFILE, MODEL_DEPLOYMENT, INFERENCE_JOB)]
    pods = Watch(resource=POD, keys=keys, label_selector=f"{LABEL_COMPONENT}={COMPONENT_MODEL}")
    return [*plain, pods, Watch(resource=CORE_EVENT, keys=keys, field_selector=OUR_EVENTS)]


async def _allowed_here(client: ApiClient, watch: Watch, target: ClusterTarget) -> str:
    """The context's namespace, if the resource may be listed there."""
    if not watch.resource.namespaced:
        return ""
    try:
        await client.count(watch.resource, target.namespace)
    except Forbidden:
        return ""
    return target.namespace


async def read_once(client: ApiClient, target: ClusterTarget) -> ClusterFacts:
    """The facts as they are now, without watches. Raises ApiError."""
    sight = await look(client, target)
    await fill(client, sight.store, sight.list_watches)
    now = time.time()
    return facts(sight, await read_metrics(client, target.system, now), now)


async def fill(client: ApiClient, store: Store, list_watches: Iterable[ListWatch]) -> None:
    """Lists everything once. Raises ApiError."""
    for list_watch in list_watches:
        listing = await client.list(
            list_watch.resource,
            namespace=list_watch.namespace,
            label_selector=list_watch.label_selector,
            field_selector=list_watch.field_selector,
            metadata_only=list_watch.metadata_only,
        )
        store.replace(list_watch, listing.items, listing.version)


def facts(sight: Sight, metrics: OperatorMetrics, now: float, silent_since: float = 0.0) -> ClusterFacts:
    """What is in the cache at present. `silent_since`: when the API server answered last, if it does not now."""
    store = sight.store
    return ClusterFacts(
        title=sight.title,
        now=now,
        nodes=store.all(NODE),
        profiles=store.all(ACCELERATOR_PROFILE),
        deployments=store.all(MODEL_DEPLOYMENT),
        jobs=store.all(INFERENCE_JOB),
        pods=store.all(POD),
        events=store.all(CORE_EVENT),
        gauges=metrics.gauges,
        live_problem="" if metrics.silence else metrics.problem,
        silence=metrics.silence,
        silent_since=silent_since or now,
        operator_missing=metrics.no_leader,
        notes=sight.notes,
    )
