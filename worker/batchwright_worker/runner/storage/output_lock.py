"""One process at a time decides what an output is: its plan, its manifest, which parts replace others.

On a file system that is a lock of the kernel's, which ends with its process however that ends. On an object store it is
a lease: an object that its holder writes again all the time, and that another one takes over, by a conditional put,
when it has not changed for LEASE_S. Runners of shards need neither, since a part is made once by whoever is first. A
process that lost its lease while it slept does no harm: what is done under the lock may be done twice, and is the same.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from batchwright_worker.file_locks import taken
from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.storage.bucket_files import BucketFiles
from batchwright_worker.runner.storage.locations import WORK_DIR, Location, output_errors

LOCK_NAME: Final = f"{WORK_DIR}/lock"
LEASE_S: Final = 20.0
_RENEWALS: Final = 4
"""In LEASE_S."""
_POLL_S: Final = 0.1
_LEASE_POLL_S: Final = 1.0
_NO_LOCKS: Final = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL)
"""What file systems say that have none."""

GivenUp = Callable[[], bool]


class GaveUp(Exception):  # noqa: N818 - no error
    """Whoever waited is not wanted any more."""


class LeaseContent(msgspec.Struct, kw_only=True, frozen=True):
    """`holder` is empty where nobody has it; `renewals` counts, so that each content differs."""

    holder: str
    renewals: int = 0


@contextlib.contextmanager
def alone(output: Location, given_up: GivenUp = lambda: False) -> Iterator[None]:
    """Wait until nobody else is within such a block for this output, and keep others out. Blocking. Raises GaveUp when
    `given_up`, StepFailed as `output_errors`."""
    if output.local:
        with output_errors(output):
            release = _locked(Path(output.at(LOCK_NAME)), given_up)
    elif isinstance(output.fs, BucketFiles):
        lease = Lease(output)
        while not lease.take():
            _pause(given_up, _LEASE_POLL_S)
        release = lease.kept()
    else:  # of this process alone
        yield
        return
    try:
        yield
    finally:
        release()


def is_held(output: Location) -> bool:
    """Is anybody within such a block now? Never writes. On an object store: as far as the lease tells at one look."""
    if not output.local:
        return isinstance(output.fs, BucketFiles) and bool(Lease(output).holder())
    with contextlib.suppress(OSError):
        return is_locked(Path(output.at(LOCK_NAME)))
    return False


# --- file systems ---


def lock_now(path: Path) -> int | None:
    """A descriptor with which this process holds the file's lock until it is closed; None: another one has it. Raises
    OSError. Where a file system has no locks, everybody gets one."""
    try:
        lock = taken(path, create=True)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    return None if lock is None else lock.descriptor


def is_locked(path: Path) -> bool:
    """Does a process hold this file's lock? As far as is known: not where a file system has none. Raises OSError,
    FileNotFoundError."""
    try:
        lock = taken(path, shared=True)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    if lock is not None:
        lock.release()
    return lock is None


def _locked(path: Path, given_up: GivenUp) -> Callable[[], None]:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # the folder, too, may have been removed meanwhile
            if (descriptor := lock_now(path)) is not None:
                break
        _pause(given_up, _POLL_S)

    def release() -> None:
        try:
            path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    return release


def _pause(given_up: GivenUp, seconds: float) -> None:
    if given_up():
        raise GaveUp
    time.sleep(seconds)


# --- object stores ---


class Lease:
    """The lease of one output, as one process sees it. Not thread-safe."""

    def __init__(self, output: Location, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._output = output
        self._clock = clock
        self._content = LeaseContent(holder=secrets.token_hex(8))
        self._version: object = None
        self._seen: tuple[object, float] = (None, 0.0)
        """A version of somebody else's, and since when it has been there."""

    def take(self) -> bool:
        """Try it once: False while another one has it, and writes it again."""
        found = self._read()
        if found is None:
            return self._put(None)
        content, version = found
        if version != self._seen[0]:
            self._seen = version, self._clock()
        expired = self._clock() - self._seen[1] >= LEASE_S
        return (not content.holder or expired) and self._put(version)

    def renew(self) -> bool:
        """Write it again; False: it was taken over."""
        self._content = msgspec.structs.replace(self._content, renewals=self._content.renewals + 1)
        return self._put(self._version)

    def give_back(self) -> None:
        """Nobody has it, unless it was taken over."""
        self._content = LeaseContent(holder="", renewals=self._content.renewals + 1)
        self._put(self._version)

    def holder(self) -> str:
        """Whoever has it; empty: nobody."""
        found = self._read()
        return found[0].holder if found is not None else ""

    def kept(self) -> Callable[[], None]:
        """Renew it until the result is called, which gives it back."""
        ended = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(ended,), name="output-lease", daemon=True)
        keeper.start()

        def release() -> None:
            ended.set()
            keeper.join()
            with contextlib.suppress(StepFailed):  # it ends by itself
                self.give_back()

        return release

    def _keep(self, ended: threading.Event) -> None:
        while not ended.wait(LEASE_S / _RENEWALS):
            with contextlib.suppress(StepFailed):  # tried again soon
                if not self.renew():
                    return

    def _read(self) -> tuple[LeaseContent, object] | None:
        with output_errors(self._output):
            try:
                raw, version = self._output.fs.read_version(self._output.at(LOCK_NAME))
            except FileNotFoundError:
                return None
        try:
            return msgspec.json.decode(raw, type=LeaseContent), version
        except msgspec.MsgspecError:  # of nobody that would write it again
            return LeaseContent(holder="unknown"), version

    def _put(self, version: object) -> bool:
        with output_errors(self._output):
            written = self._output.fs.put_version(
                self._output.at(LOCK_NAME), msgspec.json.encode(self._content), version
            )
        if written is not None:
            self._version = written
        return written is not None
