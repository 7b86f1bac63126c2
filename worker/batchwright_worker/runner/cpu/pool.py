"""The process pool for CPU tasks: it serves attached queues in order of attachment, each by its own order (B3).

Every process has one thread here that writes calls to it and reads answers, so that large arrays never pass through
the event loop. A call is one task for the items of a block; short ones travel in chunks. A process that dies fails only
the item whose task it ran, after one more try alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import multiprocessing
import os
import queue
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from typing import Any, Protocol

from batchwright_worker.runner.cpu.pool_worker import FunctionSpec, Outcome, serve
from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.graph.blobs import Blob, receive, send
from batchwright_worker.runner.graph.block_values import BlockValues, merged, pack_values, unpack_values

CHUNK_SECONDS = 0.005
CHUNK_CALLS = 128
REPLACEMENTS = 3
_EWMA = 0.2


@dataclass(slots=True, kw_only=True)
class Call:
    """One task of some items of a block: function number, inputs by name. `done(values, errors by item)` is called
    once, on the loop."""

    function: int
    inputs: Sequence[tuple[str, Blob]]
    items: Sequence[int]
    done: Callable[[Blob, Mapping[int, str]], None]
    crashes: int = 0


_NOTHING = pack_values(BlockValues(()))
_CRASHED = (
    "the process died twice while it ran this task (killed for memory, or a crash in native code): raise the runner's "
    "memory limit or look at the function"
)


def apart(call: Call) -> list[Call]:
    """A call for each item of this one; its `done` is called when all of them have ended."""
    values: list[BlockValues] = []
    errors: dict[int, str] = {}
    left = len(call.items)

    def done(blob: Blob, failed: Mapping[int, str]) -> None:
        nonlocal left
        values.append(unpack_values(blob))
        errors.update(failed)
        left -= 1
        if not left:
            call.done(pack_values(merged(values)), errors)

    return [Call(function=call.function, inputs=call.inputs, items=(item,), done=done) for item in call.items]


class CallSource(Protocol):
    """A queue of calls that are ready, in the order in which they must be served."""

    def take(self) -> Call | None:
        """Remove and give the next one."""


@dataclass(slots=True, kw_only=True)
class _Reply:
    outcomes: list[Outcome]
    blobs: list[Blob]


class CpuPool:
    """`start`, then `attach` queues and `wake` whenever one of them got a task; `stop` at the end."""

    def __init__(self, specs: Sequence[FunctionSpec], *, workers: int, folders: Sequence[str] = ()) -> None:
        self._specs = tuple(specs)
        self._folders = tuple(folders)
        self._context = _context()
        self._seconds: list[float | None] = [None] * len(specs)
        self._sources: list[CallSource] = []
        self._retries: deque[Call] = deque()
        self._workers = [_Worker(self) for _ in range(workers if specs else 0)]
        self._idle: list[_Worker] = []
        self.loop: asyncio.AbstractEventLoop | None = None
        self.busy_seconds = 0.0
        self.on_broken: list[Callable[[StepFailed], None]] = []
        """Called when processes cannot be started any more."""

    @property
    def size(self) -> int:
        """Number of processes."""
        return len(self._workers)

    async def start(self) -> None:
        """Start the processes. Raises StepFailed if a function cannot be imported in them."""
        self.loop = asyncio.get_running_loop()
        results = await asyncio.gather(*(asyncio.to_thread(worker.open) for worker in self._workers))
        for refusal in results:
            if refusal is not None:
                raise StepFailed(*refusal)
        self._idle = list(self._workers)
        for worker in self._workers:
            worker.start()

    def attach(self, source: CallSource) -> None:
        """Serve this queue too, after those attached earlier."""
        self._sources.append(source)

    def detach(self, source: CallSource) -> None:
        """Take no more calls from this queue; those that run are answered."""
        self._sources.remove(source)

    def wake(self) -> None:
        """Give waiting calls to idle processes."""
        while self._idle:
            calls = self._chunk()
            if not calls:
                return
            self._idle.pop().calls.put(calls)

    async def stop(self) -> None:
        """End the processes; calls that run are dropped without an answer."""
        self._sources.clear()
        for worker in self._workers:
            worker.stop()
        await asyncio.gather(*(asyncio.to_thread(worker.join) for worker in self._workers))

    def _chunk(self) -> list[Call]:
        if self._retries:
            # Alone: if the process dies again it is this call's doing, and no other call has to pay for it.
            return [self._retries.popleft()]
        calls: list[Call] = []
        expected = 0.0
        while len(calls) < CHUNK_CALLS and expected < CHUNK_SECONDS:
            call = self._next()
            if call is None:
                break
            calls.append(call)
            seconds = self._seconds[call.function]
            # A function that has not been timed goes alone: it may take minutes.
            expected += CHUNK_SECONDS if seconds is None else seconds * len(call.items)
        return calls

    def _next(self) -> Call | None:
        for source in self._sources:
            call = source.take()
            if call is not None:
                return call
        return None

    def time_limit(self, calls: Sequence[Call]) -> float | None:
        """Seconds that these may take together; None: any time."""
        limits = [self._specs[call.function].timeout_s for call in calls]
        return (
            sum(limit * len(call.items) for limit, call in zip(limits, calls, strict=True) if limit is not None)
            if None not in limits
            else None
        )

    def answered(self, worker: _Worker, calls: list[Call], reply: _Reply | None, *, late: bool = False) -> None:
        """Called on the loop: a process has answered a chunk, or (None) died with it, or was `late` and was ended, and
        was replaced."""
        self._idle.append(worker)
        if reply is None:
            self._lost(calls, late=late)
        else:
            self._settle(calls, reply)
        self.wake()

    def _settle(self, calls: list[Call], reply: _Reply) -> None:
        for call, (errors, seconds), blob in zip(calls, reply.outcomes, reply.blobs, strict=True):
            known, each = self._seconds[call.function], seconds / max(1, len(call.items))
            self._seconds[call.function] = each if known is None else known + _EWMA * (each - known)
            self.busy_seconds += seconds
            call.done(blob, errors)

    def item_seconds(self, function: int) -> float | None:
        """What the function lately took for an item; None if it has not run."""
        return self._seconds[function]

    def _lost(self, calls: list[Call], *, late: bool) -> None:
        """In company nobody knows whose fault it was: every item is tried again, alone."""
        for call in calls:
            if len(call.items) > 1:
                self._retries.extend(apart(call))
                continue
            if late and len(calls) == 1:
                seconds = self._specs[call.function].timeout_s
                call.done(_NOTHING, {call.items[0]: f"it took longer than timeoutSeconds ({seconds:g})"})
                continue
            call.crashes += len(calls) == 1
            if call.crashes < 2:
                self._retries.append(call)
            else:
                call.done(_NOTHING, {call.items[0]: _CRASHED})

    def give_up(self) -> None:
        """Called on a worker's thread: its process cannot be started any more."""
        message = "processes for CPU tasks die as they start: raise the runner's memory limit, or lower cpuWorkers"
        assert self.loop is not None
        error = StepFailed("CpuPoolBroken", message, permanent=False)
        for listener in self.on_broken:
            self.loop.call_soon_threadsafe(listener, error)

    def open_process(self) -> tuple[Any, socket.socket]:
        """A new process and the socket to it. Blocking."""
        ours, theirs = self._context.Pipe(duplex=True)
        process = self._context.Process(target=serve, args=(theirs, self._folders, self._specs), daemon=True)
        process.start()
        theirs.close()
        stream = socket.socket(fileno=os.dup(ours.fileno()))
        ours.close()
        return process, stream


class _Worker:
    """One process and the thread that talks to it."""

    def __init__(self, pool: CpuPool) -> None:
        self._pool = pool
        self.calls: queue.SimpleQueue[list[Call] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="cpu-pool", daemon=True)
        self._lock = threading.Lock()  # a process is replaced, or all is stopped, never both at once
        self._process: Any = None
        self._stream: socket.socket | None = None
        self._stopping = False

    def open(self) -> tuple[str, str] | None:
        """Start the process and wait until it has its functions; the reason and message if it cannot."""
        self._process, self._stream = self._pool.open_process()
        refusal: tuple[str, str] | None
        refusal, _ = receive(self._stream)
        return refusal

    def start(self) -> None:
        """Begin to serve calls."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end and end the process, whatever it runs."""
        self.calls.put(None)
        with self._lock:
            self._stopping = True
            if self._process is not None:
                self._process.kill()

    def join(self) -> None:
        """Wait for both ends. Blocking."""
        if self._thread.ident is not None:
            self._thread.join()
        if self._process is not None:
            self._process.join()
        if self._stream is not None:
            self._stream.close()

    def _run(self) -> None:
        while (calls := self.calls.get()) is not None:
            reply, late = self._ask(calls)
            if self._stopping:
                return
            assert self._pool.loop is not None
            tell = functools.partial(self._pool.answered, self, calls, reply, late=late)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._pool.loop.call_soon_threadsafe(tell)

    def _ask(self, calls: list[Call]) -> tuple[_Reply | None, bool]:
        """The answer; without one, whether the process was ended because its time was over."""
        assert self._stream is not None
        heads = [(call.function, tuple(name for name, _ in call.inputs), tuple(call.items)) for call in calls]
        try:
            send(self._stream, heads, [blob for call in calls for _, blob in call.inputs])
            # A chunk is answered as a whole, so that nothing comes until its last call has ended.
            self._stream.settimeout(self._pool.time_limit(calls))
            outcomes, blobs = receive(self._stream)
            self._stream.settimeout(None)
            return _Reply(outcomes=outcomes, blobs=blobs), False
        except TimeoutError:
            self._replace()
            return None, True
        except (EOFError, OSError):
            self._replace()
            return None, False

    def _replace(self) -> None:
        assert self._stream is not None
        for _ in range(REPLACEMENTS):
            with self._lock, contextlib.suppress(EOFError, OSError):
                if self._stopping:
                    return
                self._process.kill()
                self._process.join()
                self._stream.close()
                self.open()
                return
        self._pool.give_up()


def begin_fork_server() -> None:
    """Have the server of `_context` import what it needs meanwhile: it is wanted soon. Returns at once."""
    _context()
    forkserver.ensure_running()


def _context() -> Any:
    """Processes are forked from a clean, single-threaded server that has imported what they need: starting one anew
    takes milliseconds, and no thread of the runner is ever forked."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["batchwright_worker.runner.cpu.pool_worker", "numpy"])
    return context
