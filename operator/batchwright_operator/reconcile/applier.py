"""The applier: performs a decision's actions. Every response enters the cache at once, so that the next pass sees what
this one did before its watch events arrive; an action that would change nothing is not sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import groupby
from typing import Final, assert_never

from batchwright_operator.errors import ApiError, Conflict, NotFound, Unavailable
from batchwright_operator.kube.client import ApiClient
from batchwright_operator.kube.objects import Resource
from batchwright_operator.reconcile.applied import WrittenStatuses
from batchwright_operator.reconcile.cache import Store
from batchwright_operator.reconcile.child_writer import ChildWriter
from batchwright_operator.reconcile.decisions import Action, Apply, Create, Delete, Event, Key, Patch, StatusWrite
from batchwright_operator.reconcile.metrics import Metrics
from batchwright_operator.reconcile.passes import current
from batchwright_operator.reconcile.reduced import decoder_of

# Placement may patch many pods in one pass. Measured on a real API server: 8 to 16 patches in flight make 225 to 330 a
# second, at 0.3 ms of our CPU each; on one whose machine is overloaded a patch takes 0.27 s, and 16 make 33 a second.
PATCHES_IN_FLIGHT: Final = 24
LOOK_AGAIN_S: Final = 60.0


class ActionFailed(Exception):  # noqa: N818 - it carries the error
    """An action was refused, or had no response; `cause` says which."""

    def __init__(self, what: str, cause: ApiError) -> None:
        super().__init__(f"{what}: {cause}")
        self.what = what
        self.cause = cause


class Sending:
    """Actions on their way. `on_answer` is told how each ended."""

    tasks: asyncio.TaskGroup

    def __init__(
        self,
        perform: Callable[[Action], Awaitable[None]],
        on_answer: Callable[[Action, ActionFailed | None], None],
    ) -> None:
        self._perform, self._on_answer = perform, on_answer
        self._free = asyncio.Semaphore(PATCHES_IN_FLIGHT)
        self.failures: list[ActionFailed] = []
        self.is_broken = False
        """The API server does not answer at present."""

    async def send(self, action: Action) -> bool:
        """Waits until fewer than the limit are on their way. False: not sent, as the API server does not answer."""
        await self._free.acquire()
        if self.is_broken:
            self._free.release()
            return False
        self.tasks.create_task(self._one(action))
        return True

    def raise_worst(self) -> None:
        """Raises the worst failure, if there is one."""
        if self.failures:
            raise next((one for one in self.failures if isinstance(one.cause, Unavailable)), self.failures[0])

    async def _one(self, action: Action) -> None:
        failed = None
        try:
            await self._perform(action)
        except ActionFailed as failure:
            failed = failure
            self.failures.append(failure)
            self.is_broken |= isinstance(failure.cause, Unavailable)
        finally:
            self._free.release()
            self._on_answer(action, failed)


class Applier:
    """Performs actions against one cluster. `look_again_s`: how often at most an object that is not watched, a Secret,
    is looked at; `tell`: see ChildWriter."""

    def __init__(
        self, client: ApiClient, store: Store, metrics: Metrics, *, look_again_s: float = LOOK_AGAIN_S,
        clock: Callable[[], float] = time.monotonic, tell: Callable[[Event], None] = lambda event: None,
    ) -> None:  # fmt: skip
        self._client = client
        self._store = store
        self._metrics = metrics
        self._children = ChildWriter(
            client, store, count=self._count, clock=clock, look_again_s=look_again_s, tell=tell
        )
        self._statuses = WrittenStatuses()

    async def perform(self, actions: Iterable[Action]) -> None:
        """Performs actions in order; consecutive Patches go out together. Raises ActionFailed for the first failure (of
        Patches: for the worst one, after all others were tried)."""
        for patches, group in groupby(actions, key=lambda action: isinstance(action, Patch)):
            if patches:
                await self._perform_together(group)
            else:
                for action in group:
                    await self._perform(action)

    async def write_status(self, write: StatusWrite, key: Key) -> bool:
        """Writes the status unless that would change nothing; whether it was written. Raises ActionFailed."""
        if self._statuses.is_settled(write.resource, write.regarding, write.status):
            return False
        metadata = write.regarding["metadata"]
        place = (write.resource, metadata.get("namespace", ""), metadata["name"])
        try:
            response = await self._client.apply_status(write.resource, write.regarding, write.status)
        except NotFound:
            self._store.not_found(*place, metadata["uid"])
            return False
        except ApiError as error:
            if isinstance(error, Conflict):
                await self._refresh(*place)
            raise ActionFailed(f"status of {_name(write.resource, metadata['name'])}", error) from error
        self._count("status", write.resource)
        self._statuses.remember(write.resource, write.status, response)
        # The pass that wrote this status must not be followed by another one because of it.
        self._store.written(write.resource, response, skip=key)
        return True

    def prune(self) -> None:
        """Forgets what was written to objects that are deleted."""
        watched = self._watched()

        def is_deleted(resource: Resource, namespace: str, name: str) -> bool:
            return resource in watched and self._store.get(resource, namespace, name) is None

        self._children.prune(is_deleted)
        self._statuses.prune(is_deleted)

    def on_leadership_gained(self) -> None:
        """Forgets what was applied to objects without a watch: another leader may have changed them meanwhile."""
        watched = self._watched()
        self._children.prune(lambda resource, namespace, name: resource not in watched)

    def _watched(self) -> set[Resource]:
        """Resources that are watched without a selector."""
        list_watches = self._store.list_watches()
        return {
            list_watch.resource
            for list_watch in list_watches
            if not (list_watch.label_selector or list_watch.field_selector)
        }

    # --- within

    async def _perform_together(self, actions: Iterable[Action]) -> None:
        async with self.sending() as sending:
            for action in actions:
                if not await sending.send(action):
                    break  # the others would fail in the same way
        sending.raise_worst()

    @asynccontextmanager
    async def sending(
        self, on_answer: Callable[[Action, ActionFailed | None], None] = lambda action, failure: None
    ) -> AsyncIterator[Sending]:
        """Many actions that do not depend on each other, some at a time; all are answered when the block ends."""
        sending = Sending(self._perform, on_answer)
        async with asyncio.TaskGroup() as tasks:
            sending.tasks = tasks
            yield sending

    async def _perform(self, action: Action) -> None:
        with current.get().step("act", action):
            await self._do(action)

    async def _do(self, action: Action) -> None:
        try:
            match action:
                case Apply():
                    await self._children.apply(action)
                case Create():
                    await self._children.create(action)
                case Patch():
                    await self._patch(action)
                case Delete():
                    await self._delete(action)
                case _:
                    assert_never(action)
        except ApiError as error:
            raise ActionFailed(_describe(action), error) from error

    async def _patch(self, action: Patch) -> None:
        place, decode = (action.resource, action.namespace, action.name), decoder_of(action.resource)
        version = action.resource_version
        try:
            if action.nominated_node:
                nomination = {"status": {"nominatedNodeName": action.nominated_node}}
                nominated = await self._client.patch(
                    *place, nomination, style="merge", uid=action.uid, resource_version=version, subresource="status",
                    decode=decode,
                )  # fmt: skip
                version = nominated["metadata"]["resourceVersion"]
                self._count("nominate", action.resource)
            response = await self._client.patch(
                *place, action.patch, style=action.style, uid=action.uid, resource_version=version, decode=decode
            )
        except NotFound:
            self._store.not_found(*place)
            return
        except Conflict:
            await self._refresh(*place)
            raise
        self._count("patch", action.resource)
        self._store.written(action.resource, response)

    async def _delete(self, action: Delete) -> None:
        place = (action.resource, action.namespace, action.name)
        try:
            response = await self._client.delete(
                *place, uid=action.uid, resource_version=action.resource_version, propagation=action.propagation
            )
        except NotFound:
            response = None
        except Conflict:
            await self._refresh(*place)
            if action.resource_version is not None:
                raise
            return  # the uid's object is deleted, and another one has its name
        self._count("delete", action.resource)
        self._children.forget(place)
        if response is None:
            self._store.not_found(*place, action.uid)
        else:
            self._store.written(action.resource, response)

    async def _refresh(self, resource: Resource, namespace: str, name: str) -> None:
        """Puts the object into the cache, which was behind, as the API server has it now."""
        try:
            found = await self._client.get(resource, namespace, name)
        except NotFound:
            self._store.not_found(resource, namespace, name)
        except ApiError:
            return  # the watch brings it
        else:
            self._store.written(resource, found)

    def _count(self, verb: str, resource: Resource) -> None:
        self._metrics.writes.labels(verb, resource.kind).inc()


def _describe(action: Action) -> str:
    match action:
        case Apply(body=body) | Create(body=body):
            return _name(action.resource, body["metadata"]["name"])
        case Patch() | Delete():
            return _name(action.resource, action.name)


def _name(resource: Resource, name: str) -> str:
    return f"{resource.kind} {name}"
