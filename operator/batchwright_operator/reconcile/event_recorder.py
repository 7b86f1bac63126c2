"""The event recorder: posts Kubernetes Events. Equal ones become one Event with a count, and the rate is bounded."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from batchwright_operator.errors import ApiError, Invalid, NotFound, Unavailable
from batchwright_operator.kube.client import ApiClient
from batchwright_operator.kube.objects import EVENT, Raw
from batchwright_operator.kube.times import micro_time
from batchwright_operator.reconcile.decisions import Event
from batchwright_operator.reconcile.metrics import Metrics
from batchwright_operator.reconcile.token_bucket import Bucket

logger = logging.getLogger(__name__)

SERIES_S = 600.0
"""Equal Events within this time belong to one series."""
# Bounds on what one object, and all objects together, may post: an object whose state flips writes no Event per flip.
OBJECT_BURST = 30.0
OBJECT_PER_S = 0.1
ALL_BURST = 200.0
ALL_PER_S = 20.0
PENDING_MAX = 1000
SERIES_MAX = 4000
"""Series that are remembered, a kilobyte each: every pod that is placed is a text of its own."""
TRIES = 5


@dataclass(slots=True)
class _Series:
    name: str
    namespace: str
    count: int
    last: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Posting:
    """One write: a new Event, or a new count of one (`count` > 1)."""

    event: Event
    name: str
    namespace: str
    count: int
    at: float


class EventLimits:
    """Decides which Events are posted. Times are Unix seconds."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, ...], _Series] = {}
        self._objects: dict[str, Bucket] = {}
        self._all: Bucket | None = None
        self._expired_at = 0.0

    def admit(self, event: Event, now: float) -> Posting | None:
        """The write for this Event. None if it was posted already (only counts 2, 4, 8, ... are written) or if too many
        come at once."""
        self._expire(now)
        metadata = event.regarding["metadata"]
        uid = str(metadata["uid"])
        at = (uid, event.type, event.reason, event.action, event.message)
        series = self._series.pop(at, None)
        if series is None:
            if not self._may(uid, now):
                return None  # it is no series, whose first Event was posted: the next one of its kind is the first
            name = f"{metadata['name'][:230]}.{secrets.token_hex(8)}"
            series = _Series(name, metadata.get("namespace") or "default", 1, now)
            self._remember(at, series)
            return self._posting(event, series)
        series.count += 1
        series.last = now
        self._remember(at, series)
        # Powers of two only: an Event that repeats for days is written ever more rarely.
        if series.count & (series.count - 1) or not self._may(uid, now):
            return None
        return self._posting(event, series)

    def _remember(self, at: tuple[str, ...], series: _Series) -> None:
        """As the newest; the oldest goes where there are too many."""
        self._series[at] = series
        if len(self._series) > SERIES_MAX:
            del self._series[next(iter(self._series))]

    def _posting(self, event: Event, series: _Series) -> Posting:
        return Posting(event=event, name=series.name, namespace=series.namespace, count=series.count, at=series.last)

    def _may(self, uid: str, now: float) -> bool:
        if self._all is None:
            self._all = Bucket(ALL_BURST, ALL_PER_S, ALL_BURST, now)
        bucket = self._objects.setdefault(uid, Bucket(OBJECT_BURST, OBJECT_PER_S, OBJECT_BURST, now))
        return bucket.take(now) and self._all.take(now)

    def _expire(self, now: float) -> None:
        if 0 <= now - self._expired_at < SERIES_S / 20:
            return
        self._expired_at = now
        for at in [at for at, series in self._series.items() if not 0 <= now - series.last <= SERIES_S]:
            del self._series[at]
        if len(self._objects) > 2 * PENDING_MAX:
            self._objects = {uid: one for uid, one in self._objects.items() if not one.is_full(now)}


class EventRecorder:
    """Posts admitted Events in the background, so that no pass waits for one; after some tries an Event is dropped."""

    def __init__(self, client: ApiClient, metrics: Metrics, instance: str, clock: Callable[[], float]) -> None:
        self._client = client
        self._metrics = metrics
        self._instance = instance
        self._clock = clock
        self._limits = EventLimits()
        self._pending: asyncio.Queue[Posting] = asyncio.Queue(PENDING_MAX)

    def record(self, event: Event) -> None:
        """Queues the Event if the limits admit it. Never waits and never fails."""
        posting = self._limits.admit(event, self._clock())
        if posting is None:
            return
        try:
            self._pending.put_nowait(posting)
        except asyncio.QueueFull:
            logger.warning("too many Events wait; dropped %s: %s", event.reason, event.message)

    async def run(self) -> None:
        """Posts until cancelled."""
        while True:
            posting = await self._pending.get()
            for attempt in range(TRIES):
                try:
                    await self._client.writes.ready()
                    await self._post(posting)
                    break
                except Unavailable:
                    await asyncio.sleep(0.1 * 2**attempt)
                except ApiError as error:
                    logger.warning("Event %s: %s", posting.event.reason, error)
                    break

    async def _post(self, posting: Posting) -> None:
        if posting.count == 1:
            await self._client.create(EVENT, event_body(posting, self._instance))
            self._metrics.writes.labels("create", "Event").inc()
            return
        series = {"count": posting.count, "lastObservedTime": micro_time(posting.at)}
        try:
            await self._client.patch(EVENT, posting.namespace, posting.name, {"series": series}, style="merge")
            self._metrics.writes.labels("patch", "Event").inc()
        except (NotFound, Invalid):
            return  # the first one was never posted, or has expired


def event_body(posting: Posting, instance: str) -> Raw:
    """An events.k8s.io/v1 Event."""
    event = posting.event
    metadata = event.regarding["metadata"]
    names = ("namespace", "name", "uid", "resourceVersion")
    regarding = {name: metadata[name] for name in names if metadata.get(name)}
    return {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.kind,
        "metadata": {"name": posting.name, "namespace": posting.namespace},
        "eventTime": micro_time(posting.at),
        "reportingController": "batchwright.dev/operator",
        "reportingInstance": instance[:128],
        "action": event.action[:128],
        "reason": event.reason[:128],
        "type": event.type,
        "note": event.message.encode()[:1000].decode(errors="ignore"),
        "regarding": {"apiVersion": event.regarding["apiVersion"], "kind": event.regarding["kind"], **regarding},
    }
