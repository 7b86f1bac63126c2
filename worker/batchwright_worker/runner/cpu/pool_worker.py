"""A process of the CPU pool: reads calls from a socket, runs the functions, answers each chunk with one frame."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from batchwright_worker.runner.cpu import functions
from batchwright_worker.runner.cpu.functions import Function
from batchwright_worker.runner.errors import StepFailed, describe
from batchwright_worker.runner.graph.blobs import Blob, receive, send
from batchwright_worker.runner.graph.block_values import BlockValues, ValuesWriter, unpack_values

CallHead = tuple[int, tuple[str, ...], tuple[int, ...]]
"""On the wire: number of the function, names of the inputs, items of the block; the inputs' blobs follow in order."""
Outcome = tuple[dict[int, str], float]
"""On the wire: the error of each item that failed, seconds of all. A blob with the values of the others follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSpec:
    """One function of the job, as the manifest names it."""

    task: str
    reference: str
    args: dict[str, Any]


def serve(connection: Any, folders: Sequence[str], specs: Sequence[FunctionSpec]) -> None:
    """Main function of the process; ends when the runner closes the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    stream = socket.socket(fileno=os.dup(connection.fileno()))
    connection.close()
    try:
        functions.add_paths(folders)
        table = [functions.resolve(spec.task, spec.reference) for spec in specs]
    except StepFailed as error:
        send(stream, (error.reason, str(error)), ())
        return
    send(stream, None, ())
    try:
        while True:
            _answer(stream, specs, table)
    except (EOFError, OSError):
        return


def _answer(stream: socket.socket, specs: Sequence[FunctionSpec], table: Sequence[Function]) -> None:
    calls: list[CallHead]
    calls, blobs = receive(stream)
    outcomes: list[Outcome] = []
    results: list[Blob] = []
    position = 0
    for number, names, items in calls:
        inputs = dict(zip(names, map(unpack_values, blobs[position : position + len(names)]), strict=True))
        position += len(names)
        outcome, result = _call(table[number], inputs, items, specs[number].args)
        outcomes.append(outcome)
        results.append(result)
    send(stream, outcomes, results)


def _call(
    function: Function, inputs: dict[str, BlockValues], items: Sequence[int], args: dict[str, Any]
) -> tuple[Outcome, Blob]:
    """The function for each of these items, in order."""
    started = time.perf_counter()
    values, failed = ValuesWriter(len(items)), dict[int, str]()
    for item in items:
        try:
            values.put(item, function({name: given.value(item) for name, given in inputs.items()}, **args))
        except BaseException as error:  # sys.exit too: the process has other calls of its chunk to answer
            failed[item] = describe(error)
    return (failed, time.perf_counter() - started), values.blob()
