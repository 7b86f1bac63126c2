"""A process of the CPU pool: reads calls from a socket, runs the functions, answers each chunk with one frame."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from batchwright_worker.runner.cpu import functions
from batchwright_worker.runner.cpu.batches import batch_of, values_of
from batchwright_worker.runner.cpu.functions import Function
from batchwright_worker.runner.errors import StepFailed, describe
from batchwright_worker.runner.graph.blobs import Blob, receive, send
from batchwright_worker.runner.graph.block_values import (
    BlockValues,
    ValuesWriter,
    merged,
    pack_values,
    packed_apart,
    unpack_values,
)

CallHead = tuple[int, tuple[str, ...], tuple[int, ...]]
"""On the wire: number of the function, names of the inputs, items of the block; the inputs' blobs follow in order."""
Outcome = tuple[dict[int, str], float]
"""On the wire: the error of each item that failed, seconds of all. A blob with the values of the others follows."""
Inputs = Mapping[str, BlockValues]
Ran = tuple[Blob, dict[int, str]]
Run = Callable[[Inputs, Sequence[int]], Ran]


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSpec:
    """One function of the job, as the manifest names it."""

    task: str
    reference: str
    args: dict[str, Any]
    batch: bool = False
    timeout_s: float | None = None
    """The longest time that an item may take."""


def serve(connection: Any, folders: Sequence[str], specs: Sequence[FunctionSpec]) -> None:
    """Main function of the process; ends when the runner closes the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if isinstance(sys.stdout, io.TextIOWrapper):  # what functions print is to be seen, and this process is killed
        sys.stdout.reconfigure(line_buffering=True)
    stream = socket.socket(fileno=os.dup(connection.fileno()))
    connection.close()
    problem: tuple[str, str] | None = None
    table: list[Run] = []
    try:
        functions.add_paths(folders)
        table = [_runner(spec) for spec in specs]
    except StepFailed as error:
        problem = error.reason, str(error)
    with contextlib.suppress(EOFError, OSError):  # the runner has ended
        send(stream, problem, ())
        while problem is None:
            _answer(stream, table)


def _runner(spec: FunctionSpec) -> Run:
    """How the task runs in this process. A class is made into an object once. Raises StepFailed(InvalidTask)."""
    target = functions.resolve(spec.task, spec.reference)
    functions.prepare(spec.reference, spec.args)
    run = _batch if spec.batch else _one_by_one
    if not inspect.isclass(target):
        return partial(run, target, spec.args)
    try:
        made: Any = target(**spec.args)
    except BaseException as error:
        message = f"task {spec.task!r}: {spec.reference} cannot be made: {describe(error)}"
        raise StepFailed("InvalidTask", message) from error
    return partial(run, made, {})


def _answer(stream: socket.socket, table: Sequence[Run]) -> None:
    calls: list[CallHead]
    calls, blobs = receive(stream)
    outcomes: list[Outcome] = []
    results: list[Blob] = []
    position = 0
    for number, names, items in calls:
        inputs = dict(zip(names, map(unpack_values, blobs[position : position + len(names)]), strict=True))
        position += len(names)
        started = time.perf_counter()
        result, failed = table[number](inputs, items)
        outcomes.append((failed, time.perf_counter() - started))
        results.append(result)
    send(stream, outcomes, results)


def _one_by_one(function: Function, args: dict[str, Any], inputs: Inputs, items: Sequence[int]) -> Ran:
    """The function for each of these items, in order."""
    values, failed = ValuesWriter(len(items)), dict[int, str]()
    for item in items:
        try:
            values.put(item, function({name: given.value(item) for name, given in inputs.items()}, **args))
        except BaseException as error:  # sys.exit too: the process has other calls of its chunk to answer
            failed[item] = describe(error)
    return values.blob(), failed


def _batch(function: Function, args: dict[str, Any], inputs: Inputs, items: Sequence[int]) -> Ran:
    """The function once for all of these items; if that fails, for each of them alone, so that the others are right."""
    try:
        values = values_of(function({name: batch_of(given, items) for name, given in inputs.items()}, **args), items)
        return packed_apart(values), {}
    except BaseException as error:
        if len(items) == 1:
            return pack_values(BlockValues(())), {items[0]: describe(error)}
    alone = [_batch(function, args, inputs, (item,)) for item in items]
    failed = {item: message for _, errors in alone for item, message in errors.items()}
    return pack_values(merged([unpack_values(blob) for blob, _ in alone])), failed
