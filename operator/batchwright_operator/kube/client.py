"""The API client: the only module of ours that speaks HTTP to the API server.

Bodies are plain JSON (`objects.Raw`); every failure is an error of `errors.py`. Calls go through two circuit
breakers, one for reads and one for writes: a server that refuses writes may still serve the watches that keep the
cache current. A write that ends in Unavailable may have happened all the same.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, Literal

import aiohttp
import msgspec

from batchwright_operator.errors import AlreadyExists, Conflict, Gone, Invalid, SettingsError, Unauthorized, Unavailable
from batchwright_operator.kube.circuit_breaker import CircuitBreaker
from batchwright_operator.kube.cluster_clock import ClusterClock
from batchwright_operator.kube.credentials import Credentials
from batchwright_operator.kube.objects import SECRET, Raw, Resource
from batchwright_operator.kube.responses import Decode, WatchEvent, error_from, event_from, lines, page_from

FIELD_MANAGER: Final = "batchwright-operator"
CONNECTIONS: Final = 32
DECODED_AT_ONCE: Final = 100
"""Objects of a list: a page of 500 pods takes 30 ms, in which nobody else has a turn."""
_TIMEOUT = aiohttp.ClientTimeout(total=15, sock_connect=5)
_LIST_TIMEOUT = aiohttp.ClientTimeout(total=60, sock_connect=5)
_JSON = "application/json"
_APPLY = "application/apply-patch+yaml"
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
NEVER: Final = "1"
"""A resourceVersion that no object has, since the first write of every etcd makes 2. A server-side apply with it
creates an object, and fails with a conflict where there is one: so nobody's object is ever taken over."""
_PATCH = {"strategic": "application/strategic-merge-patch+json", "merge": "application/merge-patch+json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A whole list, and its resourceVersion."""

    items: list[Raw]
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One request. `urgent` ones (the Lease) bypass the circuit breaker: its longest delay is longer than the time
    that a leader has for a renewal. That they succeed makes the next probe due."""

    method: str
    path: str
    params: Mapping[str, str] | None = None
    body: Raw | None = None
    content_type: str = _JSON
    accept: str = _JSON
    timeout: aiohttp.ClientTimeout = _TIMEOUT
    urgent: bool = False
    verb: str = ""
    """As the metrics name it; empty: by the method."""


class ApiClient:
    """A client of one API server. Use it as an async context manager."""

    def __init__(self, credentials: Credentials, *, page_size: int = 500) -> None:
        self._page_size = page_size
        self.on_call: Callable[[str, int], None] = lambda verb, code: None
        """Told the verb and the status code (0: no answer) of every call."""
        self.may_write: Callable[[], bool] = lambda: True
        """Asked before each write: one that a replica had decided on before it lost its Lease is not sent after."""
        self.clock = ClusterClock()
        clock = asyncio.get_running_loop().time
        self._credentials = credentials
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self.reads = CircuitBreaker(clock)
        self.writes = CircuitBreaker(clock)

    async def __aenter__(self) -> ApiClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        for session in self._sessions.values():
            await session.close()

    # --- reads

    async def get(self, resource: Resource, namespace: str, name: str, *, urgent: bool = False) -> Raw:
        """One object."""
        return await self._object(_Call(method="GET", path=path_of(resource, namespace, name), urgent=urgent))

    async def metadata(self, resource: Resource, namespace: str, name: str) -> Raw:
        """One object's metadata alone, as an object. Raises NotFound."""
        path = path_of(resource, namespace, name)
        if resource != SECRET:
            return await self._object(_Call(method="GET", path=path, accept=_METADATA))
        # The operator has no right to read Secrets, and needs none: the response to a dry run of a patch of nothing
        # has the metadata, and nothing is written.
        call = _Call(method="PATCH", path=path, params={"fieldManager": FIELD_MANAGER, "dryRun": "All"}, body={},
                     content_type=_PATCH["merge"], accept=_METADATA)  # fmt: skip
        return await self._object(call)

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        metadata_only: bool = False,
    ) -> Listing:
        """All objects that match."""
        items: list[Raw] = []
        version = 0
        whole = False
        while True:
            pages = self.pages(
                resource,
                namespace=namespace,
                label_selector=label_selector,
                field_selector=field_selector,
                metadata_only=metadata_only,
                whole=whole,
            )
            try:
                async for page in pages:
                    items += page.items
                    version = page.version
            except Gone:
                if whole:
                    raise
                items, whole = [], True
                continue
            return Listing(items=items, version=version)

    async def pages(  # noqa: PLR0913 - the selectors are two
        self,
        resource: Resource,
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        metadata_only: bool = False,
        whole: bool = False,
        decode: Decode | None = None,
    ) -> AsyncIterator[Listing]:
        """A list in parts, all as of one version. Raises Gone when a continue token has expired: then ask for it
        `whole`. `decode` makes an object of its JSON, so that what nobody needs never is one."""
        accept = _METADATA_LIST if metadata_only else _JSON
        params = _selectors(label_selector, field_selector) | ({} if whole else {"limit": str(self._page_size)})
        call = _Call(method="GET", path=path_of(resource, namespace), accept=accept, timeout=_LIST_TIMEOUT, verb="list")
        asked: asyncio.Future[bytes] | None = asyncio.ensure_future(self._bytes(replace(call, params=params)))
        try:
            while asked is not None:
                page, asked = page_from(await asked), None
                if page.token:  # the server makes the next one while this one is decoded
                    more = replace(call, params=params | {"continue": page.token})
                    asked = asyncio.ensure_future(self._bytes(more))
                for items in page.parts(decode, DECODED_AT_ONCE):
                    yield Listing(items=items, version=page.version)
        finally:
            if asked is not None:
                asked.add_done_callback(lambda future: future.cancelled() or future.exception())
                asked.cancel()

    async def count(self, resource: Resource, namespace: str = "") -> int:
        """How many objects there are (in one namespace, if given), for the price of one."""
        path, one = path_of(resource, namespace), {"limit": "1"}
        call = _Call(method="GET", path=path, params=one, accept=_METADATA_LIST, verb="list")
        page = await self._object(call)
        return len(page.get("items") or ()) + int(page["metadata"].get("remainingItemCount") or 0)

    async def watch(  # noqa: PLR0913 - the selectors are two
        self,
        resource: Resource,
        version: int,
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        metadata_only: bool = False,
        stale_s: float,
        decode: Decode | None = None,
    ) -> AsyncIterator[WatchEvent]:
        """Changes after `version` until the server ends the stream, with bookmarks. Raises Gone when the version
        is too old, Unavailable when the stream breaks or says nothing for `stale_s`."""
        lifetime_s = random.randint(240, 480)  # noqa: S311 - jitter, so that not all watches end together
        params = _selectors(label_selector, field_selector) | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": str(version),
            "timeoutSeconds": str(lifetime_s),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=stale_s)
        accept = _METADATA if metadata_only else _JSON
        path = path_of(resource, namespace)
        call = _Call(method="GET", path=path, params=params, accept=accept, timeout=timeout, verb="watch")
        self.reads.check()
        try:
            async with self._send(call, "watch") as response:
                self.on_call(call.verb, response.status)
                await self._raise_for_status(response, self.reads)
                async for line in lines(response.content):
                    yield event_from(line, decode)
        except (aiohttp.ClientError, TimeoutError, OSError, SettingsError) as error:
            raise Unavailable(f"watch of {resource.plural}: {error or type(error).__name__}") from error

    async def text(self, path: str) -> str:
        """A GET on any path, as text; for what the API server proxies."""
        return (await self._bytes(_Call(method="GET", path=path))).decode()

    # --- writes

    async def create(self, resource: Resource, body: Raw, *, urgent: bool = False) -> Raw:
        """A new object. Raises AlreadyExists."""
        path = path_of(resource, body["metadata"].get("namespace", ""))
        params = {"fieldManager": FIELD_MANAGER}
        return await self._object(_Call(method="POST", path=path, params=params, body=body, urgent=urgent))

    async def replace(self, resource: Resource, body: Raw, *, urgent: bool = False) -> Raw:
        """The whole object. Raises Conflict if it has metadata.resourceVersion and the object has changed since."""
        metadata = body["metadata"]
        path = path_of(resource, metadata.get("namespace", ""), metadata["name"])
        params = {"fieldManager": FIELD_MANAGER}
        return await self._object(_Call(method="PUT", path=path, params=params, body=body, urgent=urgent))

    async def apply_new(self, resource: Resource, body: Raw) -> Raw:
        """Server-side apply of an object that is not there yet. Raises AlreadyExists, whatever the other one is."""
        try:
            return await self._apply(resource, _with_metadata(body, resourceVersion=NEVER), "")
        except Conflict as error:
            text = f"{resource.kind} {body['metadata']['name']} exists already"
            raise AlreadyExists(text, code=error.code, reason="AlreadyExists") from error

    async def apply(self, resource: Resource, body: Raw, *, uid: str | None = None) -> Raw:
        """Server-side apply with force: the fields in `body` become ours, whoever managed them. With a uid only to
        that very object: raises Conflict for another one, and where there is none."""
        if uid is None:
            return await self._apply(resource, body, "")
        with _same_object():
            return await self._apply(resource, _with_metadata(body, uid=uid), "")

    async def apply_status(self, resource: Resource, regarding: Raw, status: Raw) -> Raw:
        """The whole status. Raises Conflict if the object has changed since `regarding` was read."""
        # The resourceVersion fences a deposed leader, which a Lease alone cannot: its last write may arrive late.
        metadata = {name: regarding["metadata"][name] for name in ("name", "namespace", "resourceVersion", "uid")
                    if name in regarding["metadata"]}  # fmt: skip
        body = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, "status": status}
        return await self._apply(resource, body, "status")

    async def patch(  # noqa: PLR0913 - the preconditions are two
        self,
        resource: Resource,
        namespace: str,
        name: str,
        patch: Raw,
        *,
        style: Literal["strategic", "merge"] = "strategic",
        uid: str | None = None,
        resource_version: str | None = None,
        subresource: str = "",
        decode: Decode | None = None,
    ) -> Raw:
        """A patch of one object. Raises Conflict if a uid is given and the object is another one, or if a resource
        version is given and the object has changed since. `decode` makes an object of the response's JSON."""
        # Rather than a JSON patch with a `test`, whose failure is a 422 as for invalid input; as fast.
        known = {"uid": uid, "resourceVersion": resource_version}
        patch = _with_metadata(patch, **{name: value for name, value in known.items() if value is not None})
        path = path_of(resource, namespace, name, subresource)
        params = {"fieldManager": FIELD_MANAGER}
        with _same_object():
            return await self._object(
                _Call(method="PATCH", path=path, params=params, body=patch, content_type=_PATCH[style]), decode
            )

    async def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        uid: str,
        resource_version: str | None = None,
        propagation: str = "Background",
    ) -> Raw | None:
        """The object as it is while its finalizers run, None when it is deleted at once. Raises Conflict for another
        uid, and if a resource version is given and the object has changed since."""
        known = {"uid": uid} if resource_version is None else {"uid": uid, "resourceVersion": resource_version}
        body: Raw = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": known}
        body["propagationPolicy"] = propagation
        response = await self._object(_Call(method="DELETE", path=path_of(resource, namespace, name), body=body))
        return None if response.get("kind") == "Status" else response

    # --- within

    async def _apply(self, resource: Resource, body: Raw, subresource: str) -> Raw:
        metadata = body["metadata"]
        path = path_of(resource, metadata.get("namespace", ""), metadata["name"], subresource)
        params = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._object(_Call(method="PATCH", path=path, params=params, body=body, content_type=_APPLY))

    async def _object(self, call: _Call, decode: Decode | None = None) -> Raw:
        body = await self._bytes(call)
        try:
            response = (decode or msgspec.json.decode)(body)
        except msgspec.MsgspecError:  # a proxy's page, or half of an answer
            response = None
        if not isinstance(response, dict):
            raise Unavailable(f"{call.method} {call.path}: the response is no JSON object")
        return response

    async def _bytes(self, call: _Call) -> bytes:
        circuit = None if call.urgent else self.reads if call.method == "GET" else self.writes
        if circuit:
            circuit.check()
        if call.method != "GET" and not self.may_write():
            raise Unavailable("this replica no longer leads")
        try:
            try:
                return await self._once(call, circuit)
            except Unauthorized:  # the token was rotated since it was read
                await self._renew()
                return await self._once(call, circuit)
        except (aiohttp.ClientError, TimeoutError, OSError, SettingsError, msgspec.DecodeError) as error:
            unavailable = Unavailable(f"{call.method} {call.path}: {error or type(error).__name__}")
            if circuit:
                circuit.failed(unavailable)
            raise unavailable from error

    async def _once(self, call: _Call, circuit: CircuitBreaker | None) -> bytes:
        code = 0
        try:
            async with self._send(call, "call") as response:
                code = response.status
                self.clock.heard(response.headers.get("Date"))
                await self._raise_for_status(response, circuit)
                return await response.read()
        finally:
            self.on_call(call.verb or call.method.lower(), code)

    def _send(self, call: _Call, purpose: Literal["call", "watch"]) -> aiohttp.client._RequestContextManager:
        session = self._sessions.get(purpose)
        if session is None:
            # A watch holds its connection for minutes: counted in one limit, watches would leave none for calls.
            limit = CONNECTIONS if purpose == "call" else 0
            session = self._sessions[purpose] = self._credentials.session(limit=limit)
        return session.request(
            call.method,
            self._credentials.server + call.path,
            params=call.params,
            data=None if call.body is None else msgspec.json.encode(call.body),
            # No gzip: to pack and unpack lists takes both ends longer than a cluster's network takes for the rest.
            headers={"Content-Type": call.content_type, "Accept": call.accept, "Accept-Encoding": "identity"},
            timeout=call.timeout,
        )

    async def _raise_for_status(self, response: aiohttp.ClientResponse, circuit: CircuitBreaker | None) -> None:
        """Reports the response to the circuit breaker. Raises the error that the response is."""
        if response.status < 400:
            if circuit:
                circuit.succeeded()
            else:
                self.reads.probe_now()
                self.writes.probe_now()
            return
        error = await error_from(response)
        if circuit is None:
            pass
        elif isinstance(error, Unavailable):
            circuit.failed(error, error.retry_after_s)
        elif error.code == 403:
            circuit.forbidden(error)
        else:
            circuit.succeeded()
        raise error

    async def _renew(self) -> None:
        await asyncio.to_thread(self._credentials.refresh)
        old, self._sessions = self._sessions, {}
        for session in old.values():
            await session.close()


def _with_metadata(body: Raw, **values: str) -> Raw:
    """The body with these values in its metadata; itself without any."""
    return {**body, "metadata": {**(body.get("metadata") or {}), **values}} if values else body


@contextmanager
def _same_object() -> Iterator[None]:
    """A body with the uid of another object than the one of that name is a conflict; the API server calls it invalid,
    as it does all changes of an immutable field."""
    try:
        yield
    except Invalid as error:
        if "metadata.uid: Invalid value" not in error.message:
            raise
        raise Conflict(error.message, code=409, reason="Conflict") from error


def path_of(resource: Resource, namespace: str = "", name: str = "", subresource: str = "") -> str:
    """Path of a collection, an object or its subresource."""
    root = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
    scope = f"namespaces/{namespace}" if namespace and resource.namespaced else ""
    return "/".join(part for part in (root, scope, resource.plural, name, subresource) if part)


def _selectors(label_selector: str, field_selector: str) -> dict[str, str]:
    both = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {name: value for name, value in both.items() if value}
