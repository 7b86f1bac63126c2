"""The cluster's AcceleratorProfiles, read once for all deployments; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from batchwright_operator.kube.objects import Raw

T = TypeVar("T")


class Profiles(tuple[Raw, ...]):
    """The profiles as of one look. What follows from all of them is worked out when it is first asked for: with 1,000
    nodes that takes 22 ms, and every pass of every deployment asks."""

    _known: dict[tuple[object, str], object]

    def of_kind(self, kind: str, work_out: Callable[[Iterable[Raw], str], T]) -> T:
        """What `work_out` makes of them for this kind."""
        known = self.__dict__.setdefault("_known", {})
        at = (work_out, kind)
        if at not in known:
            known[at] = work_out(self, kind)
        found: T = known[at]
        return found
