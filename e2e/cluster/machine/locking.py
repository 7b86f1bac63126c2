"""What one process of this machine may do at a time, such as building into the cache that all of them share."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from e2e.cluster.machine.paths import cache_folder
from e2e.cluster.machine.progress import say


@contextmanager
def alone(name: str, *, waiting: str = "") -> Iterator[None]:
    """Hold the lock of this name, for threads of this process too; says `waiting` where somebody else holds it."""
    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                say(waiting)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
