"""What a cache has counted since it was made; written by those who fetch, read by whoever shows metrics."""

from __future__ import annotations

from pathlib import Path

import msgspec

from batchwright_worker.fetch.cache.layout import Layout, replace_text


class Counters(msgspec.Struct, kw_only=True, frozen=True):
    """Totals; the last three are as they were at the last change."""

    hits: int = 0
    hit_bytes: int = 0
    fetches: int = 0
    fetched_bytes: int = 0
    damaged: int = 0
    evictions: int = 0
    evicted_bytes: int = 0
    uncached: int = 0
    entries: int = 0
    bytes: int = 0
    max_bytes: int = 0


def read_counters(root: Path) -> Counters:
    """All zero where nothing was counted yet, or the file is damaged: it is no more than a display."""
    try:
        return msgspec.json.decode(Layout(root).counters.read_bytes(), type=Counters)
    except (OSError, msgspec.MsgspecError):
        return Counters()


def counted(layout: Layout, max_bytes: int, **more: int) -> None:
    """Adds to the totals and notes what is there now; to be called under the cache's lock. Raises OSError."""
    now = read_counters(layout.root)
    totals = {name: getattr(now, name) + number for name, number in more.items()}
    found = [entry.total_bytes for key in layout.entry_keys() if (entry := layout.read(key)) is not None]
    new = msgspec.structs.replace(now, **totals, entries=len(found), bytes=sum(found), max_bytes=max_bytes)
    replace_text(layout.counters, msgspec.json.encode(new))
