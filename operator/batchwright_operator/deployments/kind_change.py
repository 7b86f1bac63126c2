"""A change of accelerator, make before break; pure.

`kind_split` says how many replicas each kind is to have. Where a kind is to have fewer than it has, replicas of it that
serve stay until as many of the others are ready: so a kind that has no room, or whose models do not load, takes nothing
away from what serves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from batchwright_worker.api.names import GROUP

ANNOTATION_LEAVING = f"{GROUP}/leaving-replicas"
"""On Deployments: how many of their replicas only serve until others are ready. The rest is the kind's own share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KindInUse:
    """What a deployment has of one kind: replicas asked for now, and ready pods."""

    count: int
    ready: int = 0


def leaving(replicas: int, shares: Mapping[str, int], in_use: Mapping[str, KindInUse]) -> dict[str, int]:
    """Replicas to keep beyond their kind's share, per kind that has any; only ready ones, and only as many as are
    missing of `replicas`. The first kinds keep theirs longest: those in `shares` in its order, then the others."""
    missing = replicas - sum(min(share, in_use[kind].ready) for kind, share in shares.items() if kind in in_use)
    kept: dict[str, int] = {}
    for kind in [*shares, *(each for each in in_use if each not in shares)]:
        there, share = in_use.get(kind, KindInUse(count=0)), shares.get(kind, 0)
        spare = min(there.count, there.ready) - share
        if (count := min(spare, missing)) > 0:
            kept[kind] = count
            missing -= count
    return kept
