"""Runs the scheduler again over a dispatch log: does it take the same decisions? Pure but for the lines it is given."""

from __future__ import annotations

import base64
import io
import pickle
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from batchwright_worker.dispatch_log import calls, format_1
from batchwright_worker.dispatch_log.calls import BadLineError, Header, LoggedCall
from batchwright_worker.scheduler.scheduler import Scheduler
from batchwright_worker.scheduler.steps import Batch, QueueRequest, Refusal, Step

_CALL = msgspec.json.Decoder(LoggedCall)
_HEADER = msgspec.json.Decoder(Header)
_CONTAINERS = frozenset(
    {
        ("collections", "deque"),
        ("collections", "Counter"),
        ("builtins", "set"),
        ("builtins", "frozenset"),
        ("msgspec._utils", "rebuild"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first decision that is another one: `line` counts from 1, `t` in seconds since the log's start."""

    line: int
    t: float
    call: str
    logged: Any
    now: Any


@dataclass(slots=True, kw_only=True)
class ModelTally:
    """What happened to one model's requests and batches."""

    offered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    late: int = 0
    answered: int = 0
    latency_s: float = 0.0
    batches: int = 0
    rows: int = 0
    predicted_s: float = 0.0
    device_s: float = 0.0
    loads: int = 0


@dataclass(slots=True, kw_only=True)
class Replayed:
    """What a log holds, and whether the scheduler decides the same."""

    version: str
    calls: int = 0
    decisions: int = 0
    seconds: float = 0.0
    models: dict[str, ModelTally] = field(default_factory=dict)
    difference: Difference | None = None


@dataclass(slots=True)
class _Run:
    scheduler: Scheduler
    batches: dict[int, Batch]
    replayed: Replayed
    model_of: dict[int, str] = field(default_factory=dict)

    def tally(self, model: str) -> ModelTally:
        return self.replayed.models.setdefault(model, ModelTally())

    def step(self, logged: LoggedCall) -> Any:
        """Make the call again; what it gives, as the log has it."""
        if logged.call not in calls.CALLS:
            raise BadLineError(f"there is no call {logged.call!r} in this version")
        arguments = [calls.read(each, self.batches) for each in logged.args]
        try:
            returned = getattr(self.scheduler, logged.call)(*arguments)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise BadLineError(f"{logged.call} cannot be called with what the line says: {error!r}") from error
        self._count(logged.call, arguments, returned)
        return msgspec.json.decode(msgspec.json.encode(calls.answer(logged.call, returned)))

    def _count(self, call: str, arguments: list[Any], returned: Any) -> None:
        match call, returned:
            case "offer", _:
                self._count_offer(arguments[0], returned)
            case "next", Step():
                self._count_step(returned)
            case "batch_ended", _:
                tally = self.tally(arguments[0].run.model)
                tally.predicted_s += arguments[0].predicted_s
                tally.device_s += arguments[1]
            case "answered", _:
                tally = self.tally(arguments[0])
                tally.answered += 1
                tally.latency_s += arguments[2]
            case "load_ended", _:
                self.tally(arguments[0].model).loads += 1

    def _count_offer(self, offer: QueueRequest, returned: int | Refusal) -> None:
        tally = self.tally(offer.model)
        tally.offered += 1
        if isinstance(returned, Refusal):
            tally.refused[returned.reason] += 1
        else:
            self.model_of[returned] = offer.model

    def _count_step(self, step: Step) -> None:
        for key in step.late:
            if key in self.model_of:
                self.tally(self.model_of[key]).late += 1
        for key in step.displaced:
            if key in self.model_of:
                self.tally(self.model_of[key]).refused["QueueFull"] += 1
        if isinstance(step.action, Batch):
            batch = step.action
            self.batches[batch.serial] = batch
            tally = self.tally(batch.run.model)
            tally.batches += 1
            tally.rows += batch.run.rows


def replay(lines: Iterable[bytes]) -> Replayed:
    """Over all of it, or up to the first difference. Raises BadLineError, which names the line."""
    numbered = enumerate(lines, start=1)
    header, run = _begun(numbered)
    upgraded = format_1.upgraded if header.dispatch_log == format_1.FORMAT else _as_it_is
    for number, line in numbered:
        try:
            logged = upgraded(_CALL.decode(line))
            now = run.step(logged)
        except msgspec.MsgspecError as error:
            if line.endswith(b"\n"):
                raise BadLineError(f"line {number}: {error}") from error
            break  # the writer was killed in mid-line
        except BadLineError as error:
            raise BadLineError(f"line {number}: {error}") from error
        run.replayed.calls += 1
        run.replayed.decisions += logged.gave is not None
        run.replayed.seconds = logged.t - header.t
        if now != logged.gave:
            run.replayed.difference = Difference(
                line=number, t=logged.t - header.t, call=logged.call, logged=logged.gave, now=now
            )
            break
    return run.replayed


def _begun(numbered: Iterator[tuple[int, bytes]]) -> tuple[Header, _Run]:
    _, first = next(numbered, (1, b""))
    try:
        header = _HEADER.decode(first)
    except msgspec.MsgspecError as error:
        raise BadLineError(f"line 1 is no head of a dispatch log: {error}; give a file of --dispatch-log") from error
    if header.dispatch_log not in (format_1.FORMAT, calls.FORMAT):
        raise BadLineError(
            f"the log has format {header.dispatch_log}, this version reads {format_1.FORMAT} and {calls.FORMAT}: "
            f"replay it with batchwright {header.version}"
        )
    try:
        state, batches = _Values(io.BytesIO(zlib.decompress(base64.b64decode(header.state)))).load()
        scheduler = calls.with_state(format_1.state(state) if header.dispatch_log == format_1.FORMAT else state)
    except Exception as error:
        raise BadLineError(
            f"line 1: the state cannot be read: {error!r}; a log that begins in mid-life is read by the "
            f"version that wrote it (batchwright {header.version}) alone"
        ) from error
    return header, _Run(scheduler, batches, Replayed(version=header.version))


def _as_it_is(logged: LoggedCall) -> LoggedCall:
    return logged


class _Values(pickle.Unpickler):
    """Reads the scheduler's own values and plain containers, nothing that could act."""

    def find_class(self, module: str, name: str) -> Any:
        """Raises pickle.UnpicklingError for anything else."""
        if (module, name) in _CONTAINERS:
            return super().find_class(module, name)
        if (module, name) in format_1.STATE_CLASSES:
            return format_1.STATE_CLASSES[module, name]
        found = super().find_class(module, name) if module in calls.STATE_MODULES and "." not in name else None
        if not isinstance(found, type) or found.__module__ != module:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a dispatch log")
        return found


def table(models: Mapping[str, ModelTally]) -> list[tuple[str, ...]]:
    """One row per model, for people."""
    rows: list[tuple[str, ...]] = []
    for name, tally in sorted(models.items()):
        refused = ", ".join(f"{count} {reason}" for reason, count in sorted(tally.refused.items())) or "0"
        error = abs(tally.predicted_s - tally.device_s) / tally.device_s if tally.device_s else 0.0
        rows.append(
            (
                name,
                str(tally.offered),
                refused,
                str(tally.late),
                str(tally.answered),
                f"{1e3 * tally.latency_s / tally.answered:.1f}" if tally.answered else "-",
                str(tally.batches),
                f"{tally.rows / tally.batches:.2f}" if tally.batches else "-",
                f"{tally.device_s:.2f}",
                f"{100 * error:.1f}",
                str(tally.loads),
            )
        )
    return rows


COLUMNS = (
    "model",
    "offered",
    "refused",
    "late",
    "answered",
    "mean ms",
    "batches",
    "mean rows",
    "device s",
    "predicted off by %",
    "loads",
)
