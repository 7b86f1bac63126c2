"""The cache of watched objects, with indexes.

It has three sources: lists, watch events and the responses to our own writes. They may arrive in any order: an object
only ever moves to a newer resourceVersion, a list removes only what it could have seen, and a response about an
object that the watch has already seen deleted is dropped. resourceVersions are compared as integers (one etcd
revision counter orders all of them). Objects are shared and never mutated; metadata.managedFields is left out (it is
half of most objects and nothing is decided by it).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from batchwright_operator.kube.metadata import controller_uid
from batchwright_operator.kube.objects import POD, Raw, Resource
from batchwright_operator.kube.selectors import Matcher, matcher, within
from batchwright_operator.reconcile.decisions import Key
from batchwright_operator.reconcile.interfaces import Watch

logger = logging.getLogger(__name__)


def version_of(obj: Raw) -> int:
    """resourceVersion as an integer; 0 when there is none."""
    return int(obj["metadata"].get("resourceVersion") or 0)


@dataclass(eq=False, slots=True)
class ListWatch:
    """One list-and-watch, shared by all reconcilers that ask for this resource and these selectors."""

    resource: Resource
    label_selector: str
    field_selector: str
    matches: Matcher
    metadata_only: bool = False
    namespace: str = ""
    """Empty: all of them."""
    keys: list[Callable[[Raw], Iterable[Key]]] = field(default_factory=list)
    progress: int = 0
    """Every change up to this resourceVersion has been seen."""
    synced: bool = False
    """Has been listed at least once."""
    ordered: bool = True
    """Whether events come in the order of their resourceVersions; else only lists say what has been seen."""

    def __str__(self) -> str:
        selectors = [text for text in (self.label_selector, self.field_selector) if text]
        where = [f"in {self.namespace}"] if self.namespace else []
        return " ".join([self.resource.plural, *where, *selectors])


Place = tuple[str, str]
"""(namespace, name)"""
LOST_AFTER: Final = 1000
"""Changes of objects that are gone, which a reader may leave unread."""


@dataclass(eq=False, slots=True)
class ChangedPlaces:
    """The `Changes` of one reader. One that does not read for long is told that anything may have changed, so that it
    costs no more than the objects themselves."""

    _places: dict[Place, None] = field(default_factory=dict)
    _is_lost: bool = True

    def take(self) -> Collection[Place] | None:
        """What changed since the last call; None: anything may have."""
        places, self._places = self._places, {}
        is_lost, self._is_lost = self._is_lost, False
        return None if is_lost else places

    def note(self, place: Place, objects: int) -> None:
        """This place changed; there are so many objects."""
        if not self._is_lost:
            self._places[place] = None
            if len(self._places) > 2 * objects + LOST_AFTER:
                self._places, self._is_lost = {}, True


@dataclass(eq=False, slots=True)
class _Table:
    """The objects of one resource. An index maps (its name, value) to places."""

    resource: Resource
    list_watches: list[ListWatch] = field(default_factory=list)
    labels: set[str] = field(default_factory=set)
    objects: dict[Place, Raw] = field(default_factory=dict)
    index: dict[tuple[str, str], dict[Place, None]] = field(default_factory=dict)
    readers: list[ChangedPlaces] = field(default_factory=list)

    def put(self, place: Place, obj: Raw) -> None:
        old = self.objects.get(place)
        self.objects[place] = obj
        before = set(self._entries(place, old)) if old is not None else set()
        after = set(self._entries(place, obj))
        for entry in before - after:
            self._leave(entry, place)
        for entry in after - before:
            self.index.setdefault(entry, {})[place] = None
        self._changed(place)

    def drop(self, place: Place) -> None:
        old = self.objects.pop(place, None)
        for entry in self._entries(place, old) if old else ():
            self._leave(entry, place)
        self._changed(place)

    def _leave(self, entry: tuple[str, str], place: Place) -> None:
        places = self.index[entry]
        del places[place]
        if not places:
            del self.index[entry]

    def _changed(self, place: Place) -> None:
        for reader in self.readers:
            reader.note(place, len(self.objects))

    def found(self, name: str, value: str) -> list[Raw]:
        return [self.objects[place] for place in self.index.get((name, value), ())]

    def _entries(self, place: Place, obj: Raw) -> Iterator[tuple[str, str]]:
        yield "namespace", place[0]
        uid = controller_uid(obj)
        if uid:
            yield "owner", uid
        if self.resource == POD and (node := (obj.get("spec") or {}).get("nodeName")):
            yield "node", node
        found = obj["metadata"].get("labels") or {}
        for label in self.labels:
            if label in found:
                yield f"label {label}", found[label]


class Store:
    """The cache. Implements `StoreView`; `on_key` is called with every key that a change concerns."""

    def __init__(self, on_key: Callable[[Key], None] = lambda key: None) -> None:
        self._tables: dict[tuple[str, str], _Table] = {}
        self._on_key = on_key

    # --- reading

    def get(self, resource: Resource, namespace: str, name: str) -> Raw | None:
        """The object, or None."""
        return self._table(resource).objects.get((namespace, name))

    def all(self, resource: Resource, *, namespace: str | None = None) -> list[Raw]:
        """All objects of a kind, of one namespace if given."""
        table = self._table(resource)
        return list(table.objects.values()) if namespace is None else table.found("namespace", namespace)

    def owned(self, resource: Resource, owner_uid: str) -> list[Raw]:
        """Objects whose controller owner reference has this uid."""
        return self._table(resource).found("owner", owner_uid)

    def on_node(self, node: str) -> list[Raw]:
        """Pods that are bound to this node."""
        return self._table(POD).found("node", node)

    def labelled(self, resource: Resource, label: str, value: str, *, namespace: str | None = None) -> list[Raw]:
        """Objects with this label; by a scan where no Watch names it in `index_labels`."""
        table = self._table(resource)
        if label in table.labels:
            found = table.found(f"label {label}", value)
        else:
            found = [obj for obj in table.objects.values() if (obj["metadata"].get("labels") or {}).get(label) == value]
        return found if namespace is None else [obj for obj in found if obj["metadata"].get("namespace") == namespace]

    def changes(self, resource: Resource) -> ChangedPlaces:
        """A new account of what changes of this resource, for one reader."""
        reader = ChangedPlaces()
        self._table(resource).readers.append(reader)
        return reader

    # --- list-watches

    def register(self, watch: Watch, namespace: str = "") -> ListWatch:
        """The list-watch of this Watch, in one namespace if given; an existing one where resource, selectors and
        namespace are equal. Call it before any object is in: labels that are indexed later would miss what is there."""
        table = self._table(watch.resource)
        wanted = (watch.label_selector, watch.field_selector)
        there = [one for one in table.list_watches if one.namespace == namespace]
        list_watch = next((one for one in there if (one.label_selector, one.field_selector) == wanted), None)
        if list_watch is None:
            matches = within(namespace, matcher(*wanted))
            list_watch = ListWatch(watch.resource, *wanted, matches, watch.metadata_only, namespace)
            table.list_watches.append(list_watch)
        list_watch.keys.append(watch.keys)
        table.labels.update(watch.index_labels)
        return list_watch

    def list_watches(self) -> list[ListWatch]:
        """Every list-watch, in the order of registration."""
        return [list_watch for table in self._tables.values() for list_watch in table.list_watches]

    def sizes(self) -> dict[str, int]:
        """Resource -> number of objects."""
        return {table.resource.plural: len(table.objects) for table in self._tables.values()}

    def count(self, resource: Resource, namespace: str = "") -> int:
        """How many objects of this resource there are, in one namespace if given."""
        table = self._table(resource)
        return len(table.found("namespace", namespace) if namespace else table.objects)

    def is_watched(self, resource: Resource, obj: Raw) -> bool:
        """Whether some list-watch sees this object, so that its absence here means that it does not exist."""
        return any(list_watch.matches(obj) for list_watch in self._table(resource).list_watches)

    def all_keys(self) -> Iterator[Key]:
        """The keys of all objects (with repetitions)."""
        for table in list(self._tables.values()):
            for obj in list(table.objects.values()):
                yield from self._keys_of(table, obj)

    # --- updates

    def replace(self, list_watch: ListWatch, objects: Iterable[Raw], version: int) -> None:
        """A whole list as of `version`. It may come while a watch of the same list-watch runs."""
        replacement = self.replacement(list_watch, version)
        replacement.add(objects)
        replacement.finish()

    def replacement(self, list_watch: ListWatch, version: int) -> Replacement:
        """A list that comes in parts."""
        return Replacement(self, list_watch, version)

    def changed(self, list_watch: ListWatch, raw: Raw) -> None:
        """A watch event ADDED or MODIFIED. An old one that comes again does not bring a deleted object back."""
        table = self._table(list_watch.resource)
        obj, place = _trimmed(list_watch.resource, raw)
        if place in table.objects or version_of(obj) > list_watch.progress:
            self._put(table, place, obj)
        self._seen(list_watch, obj)

    def deleted(self, list_watch: ListWatch, raw: Raw) -> None:
        """A watch event DELETED: the object is deleted, or no longer matches the selectors of this list-watch."""
        table = self._table(list_watch.resource)
        obj, place = _trimmed(list_watch.resource, raw)
        cached = table.objects.get(place)
        if cached is not None and version_of(cached) <= version_of(obj):
            elsewhere = any(other is not list_watch and other.matches(obj) for other in table.list_watches)
            still = obj["metadata"]["uid"] == cached["metadata"]["uid"] and elsewhere
            # It may only have left the selectors of this list-watch, while another one still sees it.
            if not still:
                self._drop(table, place)
        self._seen(list_watch, obj)

    def bookmark(self, list_watch: ListWatch, version: int) -> None:
        """The watch has seen every change up to this resourceVersion."""
        list_watch.progress = max(list_watch.progress, version)

    def written(self, resource: Resource, raw: Raw, *, skip: Key | None = None) -> None:
        """An object in a response to one of our calls. The key `skip` is not queued for it."""
        table = self._table(resource)
        obj, place = _trimmed(resource, raw)
        watching = [list_watch for list_watch in table.list_watches if list_watch.matches(obj)]
        if not watching:
            cached = table.objects.get(place)
            if cached is not None and version_of(cached) <= version_of(obj):
                self._drop(table, place)
            return
        # Without an entry, a response as old as what the watch has seen is about an object that is deleted by now.
        seen_deleted = place not in table.objects and any(
            version_of(obj) <= list_watch.progress for list_watch in watching
        )
        if not seen_deleted:
            self._put(table, place, obj, skip=skip)

    def not_found(self, resource: Resource, namespace: str, name: str, uid: str | None = None) -> None:
        """The API server responded that there is no such object (with this uid)."""
        table = self._table(resource)
        cached = table.objects.get((namespace, name))
        if cached is not None and uid in (None, cached["metadata"]["uid"]):
            self._drop(table, (namespace, name))

    # --- internals

    def _seen(self, list_watch: ListWatch, obj: Raw) -> None:
        if list_watch.ordered:
            self.bookmark(list_watch, version_of(obj))

    def _table(self, resource: Resource) -> _Table:
        at = (resource.group, resource.plural)
        table = self._tables.get(at)
        if table is None:
            table = self._tables[at] = _Table(resource)
        return table

    def _put(self, table: _Table, place: Place, obj: Raw, *, skip: Key | None = None) -> None:
        old = table.objects.get(place)
        if old is not None and version_of(obj) <= version_of(old):
            return
        table.put(place, obj)
        self._notify(table, [obj] if old is None else [old, obj], skip)

    def _drop(self, table: _Table, place: Place) -> None:
        old = table.objects[place]
        table.drop(place)
        self._notify(table, [old], None)

    def _notify(self, table: _Table, objects: list[Raw], skip: Key | None) -> None:
        keys = dict.fromkeys(key for obj in objects for key in self._keys_of(table, obj))
        for key in keys:
            if key != skip:
                self._on_key(key)

    def _keys_of(self, table: _Table, obj: Raw) -> Iterator[Key]:
        namespace = obj["metadata"].get("namespace", "")
        for list_watch in table.list_watches:
            for keys in list_watch.keys if list_watch.namespace in ("", namespace) else ():
                try:
                    yield from keys(obj)
                except Exception:
                    logger.exception("no keys for %s %s", table.resource.kind, obj["metadata"].get("name"))


class Replacement:
    """A list as of one version that comes page by page. What is not in any of them is dropped at the end."""

    def __init__(self, store: Store, list_watch: ListWatch, version: int) -> None:
        self._store, self._list_watch, self._version = store, list_watch, version
        self._listed: set[Place] = set()

    def add(self, objects: Iterable[Raw]) -> None:
        """A page."""
        list_watch, table = self._list_watch, self._store._table(self._list_watch.resource)
        for raw in objects:
            obj, place = _trimmed(list_watch.resource, raw)
            self._listed.add(place)
            # The watch has seen more than this list: an object that is listed but no longer cached was deleted since.
            overtaken = self._version < list_watch.progress and version_of(obj) <= list_watch.progress
            if place in table.objects or not overtaken:
                self._store._put(table, place, obj)

    def finish(self) -> None:
        """There are no more pages."""
        list_watch, table = self._list_watch, self._store._table(self._list_watch.resource)
        deleted = [
            place
            for place, obj in table.objects.items()
            if place not in self._listed and version_of(obj) <= self._version and list_watch.matches(obj)
        ]
        for place in deleted:
            self._store._drop(table, place)
        self._store.bookmark(list_watch, self._version)
        list_watch.synced = True


def _trimmed(resource: Resource, raw: Raw) -> tuple[Raw, Place]:
    metadata = {name: value for name, value in raw["metadata"].items() if name != "managedFields"}
    obj = {"apiVersion": resource.api_version, "kind": resource.kind, **raw, "metadata": metadata}
    return obj, (metadata.get("namespace", ""), metadata["name"])
