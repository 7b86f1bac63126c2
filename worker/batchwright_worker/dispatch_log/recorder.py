"""The dispatch log: a scheduler that writes down its calls and what they return, so that `replay` can repeat them.

Off by default, and then it costs nothing: `Scheduler` itself knows nothing of it. A file begins with the state of the
scheduler, so that each of the two that are kept can be replayed alone.
"""

from __future__ import annotations

import base64
import inspect
import logging
import pickle
import zlib
from collections.abc import Callable
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from batchwright_worker.api.deployment import Eviction, QueueOrder
from batchwright_worker.dispatch_log import calls
from batchwright_worker.scheduler.scheduler import Scheduler
from batchwright_worker.scheduler.steps import Batch, Step

DEFAULT_BYTES: Final = 64 << 20
_REMEMBERED_BATCHES: Final = 64
_FLUSH_S: Final = 1.0
_LOG = logging.getLogger(__name__)


class DispatchLog:
    """Lines in a file of at most `limit_bytes`; then it becomes FILE.1 (the one before is lost) and a new one begins.

    `header()` gives the first line of a file. A disk that refuses ends the log, never the service.
    """

    def __init__(self, path: Path, limit_bytes: int, clock: Callable[[], float]) -> None:
        self._path = path
        self._limit = limit_bytes
        self._clock = clock
        self._file: BinaryIO | None = None
        self._ended = False
        self._written = 0
        self._flushed = 0.0
        self._encoder = msgspec.json.Encoder()
        self.header: Callable[[], calls.Header] | None = None

    def begin(self) -> None:
        """Before the first call: the file begins with the state that it finds."""
        if self._file is None and not self._ended:
            try:
                self._begin()
            except OSError as error:
                self._end(error)

    def write(self, logged: calls.LoggedCall) -> None:
        """One line; a file that becomes too long by it is followed by another one."""
        if self._file is None:
            return
        try:
            line = self._encoder.encode(logged)
            self._file.write(line + b"\n")
            self._written += len(line) + 1
            if self._written > self._limit:
                self._begin()
            elif logged.t - self._flushed > _FLUSH_S:
                self._file.flush()
                self._flushed = logged.t
        except OSError as error:
            self._end(error)

    def _end(self, error: OSError) -> None:
        _LOG.warning("the dispatch log %s ends: %s", self._path, error)
        self._ended, self._file = True, None

    def close(self) -> None:
        """What is in the buffer reaches the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin(self) -> None:
        self.close()
        assert self.header is not None
        if self._path.exists():
            self._path.replace(self._path.with_name(self._path.name + ".1"))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("wb", buffering=1 << 16)
        line = self._encoder.encode(self.header())
        self._file.write(line + b"\n")
        self._written, self._flushed = len(line) + 1, self._clock()


class RecordedScheduler(Scheduler):
    """A `Scheduler` whose every call of `calls.CALLS` is a line of the log, and is reported to `observe`: its name, its
    arguments, what it returned."""

    __slots__ = ("_batches_seen", "_clock", "_inside", "_lines", "_observe", "_wall")

    def __init__(
        self,
        log: DispatchLog | None,
        *,
        order: QueueOrder,
        eviction: Eviction = "LeastWorth",
        clock: Callable[[], float],
        wall: Callable[[], float],
        observe: Callable[[str, tuple[Any, ...], Any], None] | None = None,
    ) -> None:
        super().__init__(order=order, eviction=eviction)
        self._observe = observe
        self._lines = log
        self._clock, self._wall = clock, wall
        self._inside = False
        self._batches_seen: dict[int, Batch] = {}
        if log is not None:
            log.header = self._header

    def _header(self) -> calls.Header:
        state = pickle.dumps((calls.state_of(self), self._batches_seen))
        return calls.Header(
            dispatch_log=calls.FORMAT,
            version=package_version("batchwright"),
            t=self._clock(),
            wall=self._wall(),
            state=base64.b64encode(zlib.compress(state)).decode(),
        )

    def _recorded(self, call: str, act: Callable[[], Any], arguments: tuple[Any, ...]) -> Any:
        """Perform the call and write it down; calls that it makes itself are part of it."""
        if self._inside:
            return act()
        written: list[Any] = []
        if self._lines is not None:
            self._lines.begin()
            written = [calls.argument(each) for each in arguments]
        self._inside = True
        try:
            returned = act()
        finally:
            self._inside = False
        if self._lines is not None:
            if isinstance(returned, Step) and isinstance(returned.action, Batch):
                self._remember(returned.action)
            self._lines.write(calls.LoggedCall(self._clock(), call, written, calls.answer(call, returned)))
        if self._observe is not None:
            self._observe(call, arguments, returned)
        return returned

    def _remember(self, batch: Batch) -> None:
        """The newest, for a file that begins while they run."""
        self._batches_seen[batch.serial] = batch
        if len(self._batches_seen) > _REMEMBERED_BATCHES:
            del self._batches_seen[next(iter(self._batches_seen))]


def _recording(name: str) -> Callable[..., Any]:
    method: Callable[..., Any] = getattr(Scheduler, name)
    signature = inspect.signature(method)

    def call(self: RecordedScheduler, *args: Any, **kwargs: Any) -> Any:
        if kwargs:
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            args = bound.args[1:]
        return self._recorded(name, lambda: method(self, *args), args)

    call.__name__, call.__doc__ = name, method.__doc__
    return call


for _name in calls.CALLS:
    setattr(RecordedScheduler, _name, _recording(_name))
