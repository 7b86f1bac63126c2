"""How many items make a block: as many as a CPU task does in a moment, and as the models take at once. Pure.

Larger blocks cost less for each item; but a block is done by one process, and is passed on when its last item is done,
so the parts of the pipeline would wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

BLOCK_SECONDS: Final = 0.01
MOST_BLOCK_ITEMS: Final = 256


@dataclass(slots=True)
class Pace:
    """What shards of one process learn from each other, so that a shard begins as the one before ended: the last
    block's items, the memory that an item needs, and the rows that each model task makes of one."""

    block_items: int = 1
    need_bytes: float = 0.0
    item_rows: dict[int, float] = field(default_factory=dict)


def block_items(cpu_seconds: Iterable[float | None], model_items: Iterable[float | None], previous: int) -> int:
    """Items of the next block: from the seconds that each CPU task takes for one, the items that the replicas of each
    model have at once (None: not known yet), and the size of the last block, which is at most doubled."""
    most: float = min(2 * previous, MOST_BLOCK_ITEMS)
    for seconds in cpu_seconds:
        most = min(most, 1 if seconds is None else BLOCK_SECONDS / max(seconds, 1e-9))
    for items in model_items:
        most = min(most, 1 if items is None else items)
    return max(1, int(most))
