"""The cache of parsed objects: every version of a raw object is parsed once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from batchwright_operator.kube.objects import Raw

T = TypeVar("T")


class ParsedObjects(Generic[T]):
    """Raw objects as values; an object is parsed again only when its resourceVersion has changed."""

    def __init__(self, read: Callable[[Raw], T]) -> None:
        self._read = read
        self._known: dict[tuple[str, str], tuple[object, T]] = {}

    def of(self, objects: Iterable[Raw]) -> dict[tuple[str, str], T]:
        """(namespace, name) -> value, in the order given; those not given are forgotten."""
        before, self._known = self._known, {}
        for raw in objects:
            metadata = raw["metadata"]
            place = (metadata.get("namespace", ""), metadata["name"])
            version = (metadata.get("uid"), metadata.get("resourceVersion"))
            known = before.get(place)
            same = known is not None and known[0] == version and version[1] is not None
            self._known[place] = known if known is not None and same else (version, self._read(raw))
        return {place: value for place, (_, value) in self._known.items()}


class ParsedOnDemand(Generic[T]):
    """Objects as values, parsed once per version and only when asked for."""

    def __init__(self, read: Callable[[Raw], T]) -> None:
        self._read = read
        self._known: dict[tuple[str, str], tuple[object, T]] = {}

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._known)

    def of(self, place: tuple[str, str], raw: Raw | None) -> T | None:
        """The value of this object; None without one."""
        if raw is None:
            self._known.pop(place, None)
            return None
        metadata = raw["metadata"]
        version = (metadata.get("uid"), metadata.get("resourceVersion"))
        known = self._known.get(place)
        if known is None or known[0] != version or version[1] is None:
            known = self._known[place] = (version, self._read(raw))
        return known[1]
