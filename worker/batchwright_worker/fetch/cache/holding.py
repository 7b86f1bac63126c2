"""What a pod uses of the cache stays there for as long as a container of the pod holds it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from batchwright_worker.fetch.cache.layout import ENTRY_FILE
from batchwright_worker.file_locks import Flock, shared_lock

_LOG = logging.getLogger(__name__)
_held: list[Flock] = []


def link(place: Path, content: Path) -> None:
    """`place` leads to the artifact's folder in the cache, by one rename; what was there goes."""
    new = place.with_name(f".{place.name}.link")
    place.parent.mkdir(parents=True, exist_ok=True)
    new.unlink(missing_ok=True)
    new.symlink_to(content)
    new.replace(place)


def hold_linked(folder: Path) -> int:
    """Holds all entries that links in this folder lead to, until this process ends; how many. One that is gone, which
    takes a pod whose containers all stood still for long, is told: its model cannot be loaded."""
    count = 0
    for place in _links(folder):
        try:
            _held.append(shared_lock(place.resolve().parent / ENTRY_FILE))
            count += 1
        except OSError as error:
            _LOG.warning("the cache of weights has lost %s, delete this pod: %s", place.name, error)
    return count


def _links(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (each for each in sorted(folder.iterdir()) if each.is_symlink())
