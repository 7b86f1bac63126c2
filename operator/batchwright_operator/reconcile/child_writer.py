"""The writer of children: applies and creates objects of an owner, and never touches one that is not the owner's.

A look at the cache or at the API server is never enough, since the object may be another one by the time of the write:
so every apply either carries the uid of the object that was found to be ours, or creates and fails where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from batchwright_operator.errors import AlreadyExists, ApiError, Conflict, Contended, Invalid, NameTaken, NotFound
from batchwright_operator.kube.client import FIELD_MANAGER, ApiClient
from batchwright_operator.kube.metadata import controller_of, is_leaving
from batchwright_operator.kube.objects import (
    INFERENCE_JOB,
    MODEL_DEPLOYMENT,
    RESOURCE_CLAIM_TEMPLATE,
    RESOURCE_SLICE,
    SECRET,
    Raw,
    Resource,
)
from batchwright_operator.reconcile.applied import AppliedBodies, digest
from batchwright_operator.reconcile.cache import Store
from batchwright_operator.reconcile.decisions import Apply, Create, Event
from batchwright_operator.reconcile.foreign_fields import by_whom, foreign_fields, restored
from batchwright_operator.reconcile.mending import has_to_go, may_help, patch_of
from batchwright_operator.reconcile.ownership import is_left_behind, is_orphan, require_ours, taken
from batchwright_operator.reconcile.stamps import has_stamp, is_as_stamped, needs_accounts, stamped
from batchwright_operator.reconcile.token_bucket import Bucket

REPAIR_BURST: Final = 5.0
REPAIRS_PER_S: Final = 1 / 60
"""How often one child is brought back to a body that has not changed. Who undoes it again and again (another operator,
a webhook) would else be answered at the speed of the network: 36 writes a second of one Service were seen."""

OPTIONAL: Final = {
    RESOURCE_CLAIM_TEMPLATE: "remove deviceClaim from spec.runtimes, or upgrade to Kubernetes 1.34",
    RESOURCE_SLICE: "turn publishResourceSlices off in the operator's settings, or upgrade to Kubernetes 1.34",
}
"""What not every cluster serves, and what its users are to do there."""
OWNERS: Final = {each.kind: each for each in (MODEL_DEPLOYMENT, INFERENCE_JOB)}

Place = tuple[Resource, str, str]
"""(resource, namespace, name)"""


class ChildWriter:
    """Applies and creates children. `clock` is monotonic, in seconds; `look_again_s`: how often at most an object that
    is not watched is looked at; `tell` is told what was undone that somebody did."""

    def __init__(
        self, client: ApiClient, store: Store, *, count: Callable[[str, Resource], None], clock: Callable[[], float],
        look_again_s: float, tell: Callable[[Event], None] = lambda event: None,
    ) -> None:  # fmt: skip
        self._tell = tell
        self._client = client
        self._store = store
        self._count = count
        self._clock = clock
        self._look_again_s = look_again_s
        self._applied = AppliedBodies()
        self._repairs: dict[Place, Bucket] = {}
        self._looked: dict[Place, float] = {}
        self._hopeless: dict[Place, tuple[bytes, str]] = {}
        """What could not be mended either: (digest of the body, version of the object) then. It is the body."""
        self._taken: set[Place] = set()
        """Names that were somebody else's: looked at before the next try, so that a try is no write."""

    async def apply(self, action: Apply) -> None:
        """Brings the child to this body. Raises NameTaken, Contended, and what the API server responds."""
        resource, body = action.resource, action.body
        place = _place(resource, body)
        is_watched = self._store.is_watched(resource, body)
        live = self._store.get(*place)
        if is_watched and self._applied.is_settled(resource, body, live):
            return
        if not is_watched and self._is_fresh(place, body):
            return
        if live is None and (not is_watched or place in self._taken):
            live = await self._look(place)
            if not is_watched and live is not None and self._applied.is_as_applied(resource, body, live):
                return
        if live is not None and await self._is_as_stamped(place, body, live):
            return
        if live is not None:
            await self._require_ours(place, live, body)
        await self._limit_repairs(place, body)
        sent = stamped(body)
        try:
            response = await self._apply(place, sent, live)
        except NotFound as error:
            if resource not in OPTIONAL:
                raise
            words = f"this cluster does not serve {resource.api_version}; {OPTIONAL[resource]}"
            raise Invalid(words, code=404) from error
        except Invalid as error:
            if live is None:
                raise
            response = await self._mend(place, sent, live["metadata"]["uid"], error)
        if found := foreign_fields(resource, response, FIELD_MANAGER):
            response = await self._restore(place, sent, response, found)
        self._taken.discard(place)
        self._hopeless.pop(place, None)
        self._count("apply", resource)
        self._applied.remember(resource, body, response)
        self._store.written(resource, response)

    async def create(self, action: Create) -> None:
        """Makes the object. One of the same controller that exists already, or is being deleted, is success."""
        place = _place(action.resource, action.body)
        existing = self._store.get(*place)
        if existing is None:
            existing = await self._create_or_look(place, action.body)
        if existing is not None and not is_leaving(existing):
            await self._require_ours(place, existing, action.body)

    def forget(self, place: Place) -> None:
        """Forgets a child that was deleted by us."""
        self._applied.forget(*place)
        self._looked.pop(place, None)
        self._taken.discard(place)

    def prune(self, is_deleted: Callable[[Resource, str, str], bool]) -> None:
        """Forgets the objects that are deleted, and repairs of long ago."""
        self._applied.prune(is_deleted)
        now = self._clock()
        self._repairs = {place: bucket for place, bucket in self._repairs.items() if not bucket.is_full(now)}
        self._looked = {place: at for place, at in self._looked.items() if self._applied.knows(*place)}
        self._hopeless = {place: what for place, what in self._hopeless.items() if self._applied.knows(*place)}

    # --- within

    async def _is_as_stamped(self, place: Place, body: Raw, live: Raw) -> bool:
        """Whether it stands there as an operator before this one applied it; then it is as if this one had."""
        resource = place[0]
        if self._applied.knows(*place) or not has_stamp(body, live):
            return False
        if needs_accounts(resource):
            live = await self._client.get(*place)
        if not is_as_stamped(resource, body, live, FIELD_MANAGER):
            return False
        self._applied.remember(resource, body, live)
        return True

    def _is_fresh(self, place: Place, body: Raw) -> bool:
        """Whether an object that is not watched was applied like this, and looked at not long ago."""
        looked = self._looked.get(place, float("-inf"))
        return self._clock() - looked < self._look_again_s and self._applied.is_same_body(place[0], body)

    async def _require_ours(self, place: Place, live: Raw, body: Raw) -> None:
        """Raises NameTaken, and Conflict where the name is free soon."""
        # Of a Node that is gone the garbage collector clears away what there is: a benchmark, which can wait.
        if is_left_behind(live, body) and (controller_of(body) or {}).get("kind") in OWNERS:
            await self._clear_away(place, live, body)
        try:
            require_ours(place[0], live, body)
        except NameTaken:
            if is_orphan(live, body) and await self._was_applied_by_us(place, live):
                await self._require_owner(place, body)
                return
            self._taken.add(place)
            raise

    async def _was_applied_by_us(self, place: Place, live: Raw) -> bool:
        """Whether an object that nobody controls is one that we made: its owner was deleted and it was left
        (`--cascade=orphan`), or somebody took the reference away. As Deployments adopt ReplicaSets."""
        found = live if "managedFields" in live["metadata"] else await self._look(place)
        if found is None or found["metadata"]["uid"] != live["metadata"]["uid"] or controller_of(found) is not None:
            return False
        entries = found["metadata"].get("managedFields") or ()
        return any((each.get("manager"), each.get("operation")) == (FIELD_MANAGER, "Apply") for each in entries)

    async def _require_owner(self, place: Place, body: Raw) -> None:
        """Raises Conflict where the owner in `body` is being deleted, or gone: the cache may be behind, and what it
        takes over just when it is deleted without its children would be collected for its name."""
        owner = controller_of(body) or {}
        current = await self._client.metadata(OWNERS[owner["kind"]], place[1], owner["name"])
        if current["metadata"]["uid"] != owner["uid"] or is_leaving(current):
            raise Conflict(f"{owner['kind']} {owner['name']} is being deleted", code=409)

    async def _clear_away(self, place: Place, live: Raw, body: Raw) -> None:
        """Deletes what a deleted owner of the same name left, as the garbage collector will in its own time. Raises
        Conflict: the name is free then."""
        owner, resource = controller_of(body) or {}, place[0]
        # The cache may be behind, and the owner that `body` names the one that is gone: only the API server knows.
        current = await self._client.metadata(OWNERS[owner["kind"]], place[1], owner["name"])
        is_gone = current["metadata"]["uid"] == owner["uid"]
        if is_gone and resource != SECRET and not is_leaving(live):  # there is no right to delete Secrets
            await self._client.delete(*place, uid=live["metadata"]["uid"])
            self._count("delete", resource)
            self._store.not_found(*place, live["metadata"]["uid"])
        raise Conflict(f"{resource.kind} {place[2]} was left behind by a deleted {owner['kind']}", code=409)

    async def _apply(self, place: Place, body: Raw, live: Raw | None) -> Raw:
        resource = place[0]
        if live is not None:
            uid = live["metadata"]["uid"]
            try:
                return await self._client.apply(resource, body, uid=uid)
            except Conflict:
                self._store.not_found(*place, uid)  # the cache was behind: the name is free, or another object's
                raise
        try:
            return await self._client.apply_new(resource, body)
        except AlreadyExists:
            # It is not in the cache: it lacks our labels, or it is newer than the cache.
            found = await self._look(place)
            if found is None:
                raise
            await self._require_ours(place, found, body)
            return await self._client.apply(resource, body, uid=found["metadata"]["uid"])

    async def _mend(self, place: Place, body: Raw, uid: str, refused: Invalid) -> Raw:
        """Brings back an object of ours to which somebody has added what ours cannot be beside. Raises what the API
        server had to say of the body where that is not it, and Conflict: the name is free then."""
        resource, _, name = place
        if resource == SECRET or not may_help(refused):
            raise refused
        live = await self._client.get(*place)
        if live["metadata"]["uid"] != uid:
            raise Conflict(f"{resource.kind} {name} is another one by now", code=409)
        if has_to_go(resource, live):
            await self._client.delete(*place, uid=uid)
            self._count("delete", resource)
            self._store.not_found(*place, uid)
            raise Conflict(f"{resource.kind} {name} was made immutable by somebody, and is made anew", code=409)
        patch = patch_of(resource, body, live)
        version = (digest(body), live["metadata"]["resourceVersion"])
        if patch is None or self._hopeless.get(place) == version:
            raise refused
        try:
            await self._client.patch(*place, patch, style="merge", uid=uid)
        except Invalid:
            self._hopeless[place] = version
            raise refused from None
        self._count("patch", resource)
        return await self._client.apply(resource, body, uid=uid)

    async def _restore(self, place: Place, body: Raw, live: Raw, found: Mapping[str, Sequence[str]]) -> Raw:
        """Takes out what others wrote in a part that is ours alone, and tells the owner of it. Conflict: the object is
        another one by now."""
        resource = place[0]
        patch = patch_of(resource, body, live)
        if patch is not None:
            await self._client.patch(*place, patch, style="merge", uid=live["metadata"]["uid"])
            self._count("patch", resource)
        event = restored(resource, body, found, FIELD_MANAGER)
        if event is not None:
            self._tell(event)
        return await self._client.apply(resource, body, uid=live["metadata"]["uid"])

    async def _look(self, place: Place) -> Raw | None:
        """The metadata of the object as it is now; None without one."""
        resource, _, name = place
        try:
            found = await self._client.metadata(*place)
        except NotFound:
            self._taken.discard(place)
            return None
        except Invalid as error:
            # The look at a Secret is a patch of nothing, which only an admission policy refuses: ours, which lets the
            # operator touch nobody else's objects.
            self._taken.add(place)
            raise NameTaken(taken(f"{resource.kind} {name}", None), code=409) from error
        self._looked[place] = self._clock()
        return found

    async def _create_or_look(self, place: Place, body: Raw) -> Raw | None:
        """What has the name if it is not the new object. Raises AlreadyExists if that is deleted by now."""
        try:
            made = await self._client.create(place[0], body)
        except AlreadyExists:
            found = await self._look(place)
            if found is None:
                raise
            return found
        self._count("create", place[0])
        self._store.written(place[0], made)
        return None

    async def _limit_repairs(self, place: Place, body: Raw) -> None:
        """Raises Contended if this child was brought back to this body too often."""
        if not self._applied.is_same_body(place[0], body):
            return
        now = self._clock()
        bucket = self._repairs.setdefault(place, Bucket(REPAIR_BURST, REPAIRS_PER_S, REPAIR_BURST, now))
        if not bucket.take(now):
            resource, _, name = place
            raise Contended(
                f"{resource.kind} {name} was changed or deleted by somebody else{await self._by_whom(place)} after "
                "each of our last repairs; find out who does it: it is repaired once a minute until then",
                code=409,
            )

    async def _by_whom(self, place: Place) -> str:
        """The newest field manager besides us, as a part of a sentence; empty where it cannot be told."""
        if place[0] == SECRET:
            return ""
        try:
            found = await self._client.metadata(*place)
        except ApiError:
            return ""
        return by_whom(found, FIELD_MANAGER)


def _place(resource: Resource, body: Raw) -> Place:
    metadata = body["metadata"]
    return resource, metadata.get("namespace", ""), metadata["name"]
