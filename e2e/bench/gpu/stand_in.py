"""A stand-in for a GPU at the seam of `CudaDriver`: FIFO streams, events, one copy engine per direction, one compute
engine. Work runs when a GPU would run it, not when it is queued, so that what is overwritten too early, waits for the
wrong thing or blocks the host shows without a GPU. What kernels cost there, or a bus carries, it does not tell.

Each stream is a thread that takes its work in order; a piece of work occupies its engine, and the engines take the
streams' next pieces in the order in which these have become ready, as copy engines take channels in turn. `log` has
every piece of work in the order of its end.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch

from batchwright_worker.layerwise.execution.cuda_arena import Arena, PlainArena
from batchwright_worker.layerwise.execution.cuda_driver import DeviceEngineName
from batchwright_worker.layerwise.memory.pool import page_aligned

__all__ = ["StandIn", "Work"]

_LONGEST_S: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One piece of work as it ran: `queued`, `start`, `end` are numbers of one sequence over all that happened."""

    engine: DeviceEngineName
    stream: int
    queued: int
    start: int
    end: int


class StandIn:
    """`seconds` says how long each piece of work occupies its engine beyond what it takes here; `drift`: by how much
    the device's clock is faster than the host's, per second."""

    name = "stand-in for a GPU"
    device = torch.device("cpu")

    def __init__(
        self,
        seconds: Callable[[DeviceEngineName], float] = lambda _engine: 0.0,
        *,
        mirrored: bool = False,
        drift: float = 0.0,
    ) -> None:
        self.log: list[Work] = []
        self.pinned_bytes = self.pinned_ever = 0
        """Pinned now, and how often memory was pinned."""
        self.drift = drift
        self._seconds = seconds
        self._mirrored = mirrored
        self._sequence = itertools.count()
        self._engines: dict[DeviceEngineName, _Engine] = {
            "copy in": _Engine(),
            "copy out": _Engine(),
            "compute": _Engine(),
        }
        self._streams: list[_Stream] = []

    def stream(self) -> _Stream:
        """See `CudaDriver`."""
        self._streams.append(_Stream(len(self._streams)))
        return self._streams[-1]

    def event(self) -> _Event:
        """See `CudaDriver`."""
        return _Event(self)

    def queue(self, stream: _Stream, engine: DeviceEngineName, work: Callable[[], object]) -> None:
        """See `CudaDriver`."""
        queued = next(self._sequence)

        def run() -> None:
            with self._engines[engine]:
                start = next(self._sequence)
                if seconds := self._seconds(engine):
                    time.sleep(seconds)
                with torch.inference_mode():
                    work()
                self.log.append(
                    Work(engine=engine, stream=stream.number, queued=queued, start=start, end=next(self._sequence))
                )

        stream.do(run)

    def pinned(self, size: int) -> torch.Tensor:
        """See `CudaDriver`."""
        self.pinned_bytes += size
        self.pinned_ever += 1
        return torch.from_numpy(page_aligned(size))

    def unpin(self, memory: torch.Tensor) -> None:
        """See `CudaDriver`."""
        self.pinned_bytes -= memory.numel()

    def arena(self, size: int) -> Arena:
        """See `CudaDriver`."""
        return _PoolArena(size) if self._mirrored else PlainArena(size, self.device)

    def synchronize(self) -> None:
        """See `CudaDriver`."""
        for stream in self._streams:
            done = threading.Event()
            stream.do(done.set)
            done.wait()

    def clock(self) -> float:
        """The device's: not the host's."""
        return time.monotonic() * (1 + self.drift)


class _Engine:
    """Occupied by one at a time, in the order of asking."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()

    def __enter__(self) -> None:
        turn = threading.Event()
        with self._lock:
            self._waiting.append(turn)
            if self._waiting[0] is turn:
                turn.set()
        turn.wait()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._waiting.popleft()
            if self._waiting:
                self._waiting[0].set()


class _Stream:
    def __init__(self, number: int) -> None:
        self.number = number
        self.error: Exception | None = None
        """Of the first work that failed; as on a GPU, whoever waits for an event behind it is told."""
        self._work: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=f"stand-in stream {number}", daemon=True).start()

    def do(self, work: Callable[[], object]) -> None:
        self._work.put(work)

    def wait_event(self, event: _Event) -> None:
        """As recorded by now; one that was never recorded is no reason to wait."""
        if event.done is not None:
            self.do(event.done.wait)

    def _run(self) -> None:
        while True:
            work = self._work.get()
            try:
                work()
            except Exception as error:
                self.error = self.error or error


@dataclass(slots=True)
class _Event:
    driver: StandIn
    done: threading.Event | None = None
    at_s: float = 0.0
    error: Exception | None = None

    def record(self, stream: _Stream) -> None:
        done = self.done = threading.Event()

        def happen() -> None:
            self.at_s, self.error = self.driver.clock(), stream.error
            done.set()

        stream.do(happen)

    def synchronize(self) -> None:
        if self.done is not None and not self.done.wait(_LONGEST_S):
            raise RuntimeError(f"an event has not happened after {_LONGEST_S} s")
        if self.error is not None:
            raise RuntimeError(f"the device has failed: {self.error!r}") from self.error

    def elapsed_time(self, later: Any) -> float:
        self.synchronize()
        later.synchronize()
        return float((later.at_s - self.at_s) * 1e3)


class _PoolArena:
    """Mapped twice, as the CPU's pool."""

    mirrored = True

    def __init__(self, size: int) -> None:
        from batchwright_worker.layerwise.memory.pool import Pool

        self._pool = Pool(size)
        self.capacity = size
        self.memory = torch.from_numpy(self._pool.memory)

    def close(self) -> None:
        self.memory = torch.empty(0, dtype=torch.uint8)
        self._pool.close()
