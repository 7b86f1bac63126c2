"""One run of kopf: its settings, and a registry whose one handler hands on every event. See `kopf_watch`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, Final

import kopf

from batchwright_operator.kube.credentials import Credentials
from batchwright_operator.kube.objects import Raw, Resource
from batchwright_operator.reconcile.workqueue import backoff_s
from batchwright_operator.settings import Settings

OnEvent = Callable[[Resource, str | None, Raw], None]
"""Is given the type of an event (None: of a list) and its object."""
# Without a limit kopf opens a connection per object: 2,000 for 2,000 objects (measured).
CONNECTIONS: Final = 16
SILENCE_S: Final = 75.0
"""The API server sends a bookmark every minute, so a watch that is silent for longer is broken."""
FIRST_DELAY_S: Final = 0.5
LAST_DELAY_S: Final = 15.0


async def run_kopf(
    settings: Settings, credentials: Credentials, resources: Sequence[Resource], on_event: OnEvent
) -> None:
    """Watches these resources until kopf ends, or is cancelled."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.AiohttpSession:
        await asyncio.to_thread(credentials.refresh)
        session = credentials.session(limit=CONNECTIONS)
        return kopf.AiohttpSession(server=credentials.server, aiohttp_session=session)

    for resource in resources:
        _listen(registry, resource, on_event)
    await kopf.operator(
        registry=registry,
        settings=kopf_settings(settings),
        # Exact names, so that kopf need not look for namespaces.
        clusterwide=not settings.watch_namespaces,
        namespaces=settings.watch_namespaces,
        standalone=True,
        # Otherwise kopf looks up the name of the process's user, which a pod's user need not have.
        identity="batchwright",  # type: ignore[arg-type]
    )


def _listen(registry: kopf.OperatorRegistry, resource: Resource, on_event: OnEvent) -> None:
    @kopf.on.event(resource.group, resource.version, resource.plural, registry=registry, id=resource.plural)
    async def hand_on(event: kopf.RawEvent, **_: Any) -> None:
        on_event(resource, event["type"], dict(event["object"]))


class Backoffs:
    """kopf's pauses between tries: growing, jittered, without an end. When they end, kopf exits."""

    def __iter__(self) -> Iterator[float]:
        rng = Random()  # noqa: S311 - jitter
        failures = 0
        while True:
            failures += 1
            yield backoff_s(failures, rng.random(), first_s=FIRST_DELAY_S, last_s=LAST_DELAY_S)


def kopf_settings(own: Settings) -> kopf.OperatorSettings:
    """Settings of kopf: no Events, finalizers, annotations or namespaces of its own; watches that notice silence."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.persistence.finalizer = "batchwright.dev/operator"
    settings.process.ultimate_exiting_timeout = None
    settings.networking.error_backoffs = Backoffs()
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 5
    settings.watching.chunk_size = own.list_page_size
    settings.watching.inactivity_timeout = min(SILENCE_S, own.watch_stale_seconds)
    settings.queueing.exit_timeout = 0.2
    return settings
