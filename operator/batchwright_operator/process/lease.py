"""Leader election by a coordination.k8s.io Lease: one replica decides, the others keep their caches current.

Clocks of machines differ, so the times in the Lease are only for people: a holder has lost the Lease when *we* have
seen no renewal for the Lease's duration, on our own monotonic clock. A leader that could not renew for `RENEW_S`
stops at once, before anybody else may start.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Protocol

from batchwright_operator.errors import AlreadyExists, ApiError, Conflict, NotFound
from batchwright_operator.kube.objects import LEASE, Raw, Resource
from batchwright_operator.kube.times import micro_time

logger = logging.getLogger(__name__)

# What Kubernetes' own components use. RENEW_S is shorter than DURATION_S, and that difference is the time in which a
# leader that cannot renew has to stop.
DURATION_S: Final = 15.0
RENEW_S: Final = 10.0
RETRY_S: Final = 2.0
RELEASE_S: Final = 1.0
_IN_POD: Final = ".pod"


class LeaseApi(Protocol):
    """The part of `ApiClient` that an election needs."""

    async def get(self, resource: Resource, namespace: str, name: str, *, urgent: bool = False) -> Raw: ...

    async def create(self, resource: Resource, body: Raw, *, urgent: bool = False) -> Raw: ...

    async def replace(self, resource: Resource, body: Raw, *, urgent: bool = False) -> Raw: ...


@dataclass(slots=True)
class ObservedLease:
    """The newest record of the Lease, and since when (on our monotonic clock) it has not been renewed."""

    lease: Raw | None = None
    since: float = 0.0

    def see(self, lease: Raw | None, now: float) -> None:
        """Takes over a record that was read at `now`."""
        if self.lease is None or lease is None or _renewal(lease) != _renewal(self.lease):
            self.since = now
        self.lease = lease

    def may_take(self, identity: str, now: float) -> bool:
        """Whether nobody else holds it: free, ours, of a process that this one replaces, or not renewed for its
        duration since we first saw it so."""
        if self.lease is None:
            return True
        spec = self.lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        duration_s = float(spec.get("leaseDurationSeconds") or DURATION_S)
        return holder in ("", identity) or _replaces(identity, holder) or now - self.since > duration_s


def identity_of(host: str, pod: str, suffix: str) -> str:
    """A replica's identity: `pod` is the pod's name, empty outside of one. The plugin reads the pod's name from it."""
    return f"{pod}_{suffix}{_IN_POD}" if pod else f"{host}_{suffix}"


def _replaces(identity: str, holder: str) -> bool:
    """Whether the holder was an earlier process of the same pod: the kubelet starts a container again only when the one
    before has ended, so that nobody need wait for its Lease to run out."""
    mine, theirs = identity.rpartition("_")[0], holder.rpartition("_")[0]
    return mine == theirs and identity.endswith(_IN_POD) and holder.endswith(_IN_POD)


def _renewal(lease: Raw) -> tuple[object, ...]:
    spec = lease.get("spec") or {}
    return tuple(spec.get(name) for name in ("holderIdentity", "renewTime", "leaseTransitions", "acquireTime"))


def lease_body(old: Raw | None, *, namespace: str, name: str, identity: str, at: float) -> Raw:
    """The Lease as `identity` takes or renews it at `at` (Unix seconds); an empty identity releases it."""
    spec = dict((old or {}).get("spec") or {})
    if spec.get("holderIdentity") != identity and identity:
        spec["acquireTime"] = micro_time(at)
        spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + (1 if old else 0)
    spec |= {
        "holderIdentity": identity,
        "renewTime": micro_time(at),
        "leaseDurationSeconds": math.ceil(DURATION_S) if identity else 1,
    }
    metadata = dict(old["metadata"]) if old else {"name": name, "namespace": namespace}
    return {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata, "spec": spec}


class Elector:
    """The election of one replica: takes the Lease and runs `lead` while it is ours. `clock` is monotonic, `now` Unix
    seconds. A replica that is not well neither takes nor renews it."""

    def __init__(  # noqa: PLR0913 - the three clocks
        self,
        api: LeaseApi,
        namespace: str,
        name: str,
        identity: str,
        *,
        clock: Callable[[], float],
        now: Callable[[], float] = lambda: datetime.datetime.now(datetime.UTC).timestamp(),
        is_well: Callable[[], bool] = lambda: True,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._clock = clock
        self._now = now
        self._is_well = is_well
        self._rng = Random()  # noqa: S311 - jitter
        self._observed = ObservedLease()
        self._renewed_at = -math.inf

    @property
    def leads(self) -> bool:
        """Whether the Lease is certainly ours."""
        return self._clock() - self._renewed_at < RENEW_S

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Until cancelled: takes the Lease, runs `lead`, cancels it when the Lease is lost, and so on. The Lease is
        released at the end. Errors of `lead` end it, release the Lease, and are raised."""
        try:
            while True:
                await self._acquire()
                logger.info("leading as %s", self._identity)
                await self._lead(lead)
                logger.warning("no longer leading")
        finally:
            await self._release()

    async def try_once(self) -> bool:
        """One attempt to take or renew the Lease; whether it is ours now. Never raises ApiError."""
        started = self._clock()
        if not self._is_well():
            return False
        try:
            async with asyncio.timeout(RENEW_S):
                taken = await self._take()
        except NotFound as error:
            logger.warning("Lease %s/%s: %s", self._namespace, self._name, error)
            return False
        except (ApiError, TimeoutError) as error:
            logger.info("Lease %s/%s: %s", self._namespace, self._name, error or type(error).__name__)
            if isinstance(error, Conflict | AlreadyExists):
                # Another replica wrote it, or an earlier request of ours did whose response was lost: read which.
                with contextlib.suppress(ApiError):
                    await self._read()
            return False
        if taken:
            # From the request on, not from the response: the others' clocks may run since any moment in between.
            self._renewed_at = started
        return taken

    async def _acquire(self) -> None:
        while not await self.try_once():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(RETRY_S * (0.8 + 0.4 * self._rng.random()))

    async def _lead(self, lead: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.ensure_future(lead())
        try:
            while self.leads and not task.done():
                await asyncio.wait({task}, timeout=min(RETRY_S, self._left_s()))
                if self.leads and not task.done():
                    # Not awaited directly: a renewal that hangs must not keep a leader going whose time is over.
                    renewal = asyncio.ensure_future(self.try_once())
                    try:
                        await asyncio.wait({task, renewal}, timeout=self._left_s(), return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        await _stop(renewal)
        finally:
            await _stop(task)
        if not task.cancelled() and (error := task.exception()):
            raise error

    def _left_s(self) -> float:
        """How long the Lease is certainly ours if it is not renewed."""
        return max(0.0, self._renewed_at + RENEW_S - self._clock())

    async def _take(self) -> bool:
        if self._observed.lease is None or not self.leads:
            await self._read()
        if not self._observed.may_take(self._identity, self._clock()):
            return False
        body = lease_body(
            self._observed.lease,
            namespace=self._namespace,
            name=self._name,
            identity=self._identity,
            at=self._now(),
        )
        write = self._api.replace if self._observed.lease else self._api.create
        self._observed.see(await write(LEASE, body, urgent=True), self._clock())
        return True

    async def _read(self) -> None:
        try:
            lease = await self._api.get(LEASE, self._namespace, self._name, urgent=True)
        except NotFound:
            lease = None
        self._observed.see(lease, self._clock())

    async def _release(self) -> None:
        if self._observed.lease is None or not self.leads:
            return  # what is not certainly ours is not released
        self._renewed_at = -math.inf
        with contextlib.suppress(ApiError, TimeoutError):
            async with asyncio.timeout(RELEASE_S):
                await self._read()  # a renewal may have been in flight: our record may be old
                old = self._observed.lease
                if old and (old.get("spec") or {}).get("holderIdentity") == self._identity:
                    body = lease_body(old, namespace=self._namespace, name=self._name, identity="", at=self._now())
                    await self._api.replace(LEASE, body, urgent=True)


async def _stop(task: asyncio.Future[Any]) -> None:
    """Cancels the task and waits until it has stopped."""
    if not task.done():
        task.cancel()
    await asyncio.wait({task})
