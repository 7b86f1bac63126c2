"""The scheduler's calls as lines of a log: which ones, and how their values are written and read. Pure.

A value of our own is an object with its class under "is" and the fields that differ from their defaults; tuples and
lists are both lists (and read as tuples); a batch is known by its serial number once it has been dispatched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Final

import msgspec

from batchwright_worker.inference import runtime
from batchwright_worker.scheduler import devices, dispatch, queues, served_model, steps, window_counts
from batchwright_worker.scheduler.batch_size import tuning
from batchwright_worker.scheduler.scheduler import Scheduler

FORMAT: Final = 2
CALLS: Final = (
    "add_model",
    "add_device",
    "reconfigure",
    "offer",
    "cancel",
    "next",
    "plan_load",
    "begin_load",
    "batch_ended",
    "batch_failed",
    "batch_suspect",
    "retention_measured",
    "answered",
    "answered_in_part",
    "load_ended",
    "load_failed",
    "load_killed_runtime",
    "load_did_not_fit",
    "assume_resident",
    "unblock",
    "warm_up_ran",
    "serve_whole",
    "warmed_up",
    "memory_measured",
    "runtime_lost",
    "runtime_back",
    "out_of_memory",
    "make_room",
    "reserve",
    "release",
    "begin_eviction",
    "eviction_ended",
    "block",
    "requeue",
    "open_window",
    "close_window",
)
"""Every method of `Scheduler` that changes its state, and those whose answer is a decision."""
READS: Final = ("expected_wait_s", "holders", "blocked_everywhere")
"""The methods that only read."""
_INFINITE: Final = {"is": "infinite"}


class BadLineError(Exception):
    """A line that is no call of this version; says what is wrong with it."""


class Header(msgspec.Struct, frozen=True):
    """The first line of a file. `wall` is Unix seconds at `t`; `state` a pickle, compressed, in base64."""

    dispatch_log: int
    version: str
    t: float
    wall: float
    state: str


class LoggedCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call: when (seconds of the recorder's clock), which, its arguments, and what it returned."""

    t: float
    call: str
    args: list[Any] = []
    gave: Any = None


def _classes() -> Mapping[str, type[Any]]:
    modules = (tuning, devices, dispatch, queues, runtime, served_model, steps, window_counts)
    found = [each for module in modules for each in vars(module).values() if isinstance(each, type)]
    return {each.__name__: each for each in found if is_dataclass(each) or issubclass(each, msgspec.Struct)}


_CLASSES: Final = _classes()
STATE_MODULES: Final = (
    frozenset(each.__module__ for each in _CLASSES.values())
    | {
        f"batchwright_worker.scheduler.{name}"
        for name in ("admission", "batch_size.device_time", "window_counts", "order")
    }
    | {"batchwright_worker.mann_kendall"}
)
"""Where the classes of a scheduler's state are."""


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    default: Callable[[], Any] | None


def _fields(kind: type[Any]) -> list[_Field]:
    if issubclass(kind, msgspec.Struct):
        return [
            _Field(one.encode_name, _default(one.default, one.default_factory, msgspec.NODEFAULT))
            for one in msgspec.structs.fields(kind)
        ]
    return [_Field(one.name, _default(one.default, one.default_factory, MISSING)) for one in fields(kind)]


def _default(value: object, factory: Any, missing: object) -> Callable[[], Any] | None:
    if value is not missing:
        return lambda: value
    return None if factory is missing else factory


_FIELDS: Final = {kind: _fields(kind) for kind in _CLASSES.values()}


def plain(value: Any) -> Any:
    """As JSON has it."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {**_INFINITE, "sign": math.copysign(1, value)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in (sorted(value) if isinstance(value, set | frozenset) else value)]
    kind = type(value)
    if kind not in _FIELDS:
        raise TypeError(f"{kind.__name__} cannot be logged: write it as names, numbers or a value of the scheduler's")
    given = {one.name: getattr(value, one.name) for one in _FIELDS[kind]}
    written = {
        one.name: given[one.name] for one in _FIELDS[kind] if one.default is None or given[one.name] != one.default()
    }
    return {"is": kind.__name__, **{name: plain(each) for name, each in written.items()}}


def read(value: Any, batches: Mapping[int, steps.Batch]) -> Any:
    """The value that was written; `batches` by serial number. Raises BadLineError."""
    if isinstance(value, list):
        return tuple(read(each, batches) for each in value)
    if not isinstance(value, dict):
        return value
    kind = value.get("is")
    if kind is None:
        return {key: read(each, batches) for key, each in value.items()}
    if kind == _INFINITE["is"]:
        return math.copysign(math.inf, value["sign"])
    if kind == "dispatched":
        if value["serial"] not in batches:
            raise BadLineError(f"batch {value['serial']} was never dispatched")
        return batches[value["serial"]]
    if kind not in _CLASSES:
        raise BadLineError(f"there is no value {kind!r} in this version")
    try:
        return _CLASSES[kind](**{name: read(each, batches) for name, each in value.items() if name != "is"})
    except TypeError as error:
        raise BadLineError(f"{kind} is not as this version has it: {error}") from error


def argument(value: Any) -> Any:
    """An argument of a call: as `plain`, a batch by its number."""
    return {"is": "dispatched", "serial": value.serial} if isinstance(value, steps.Batch) else plain(value)


def answer(call: str, given: Any) -> Any:
    """What a call gave, as far as it is a decision."""
    match call:
        case "next":
            return _step(given)
        case "close_window":
            decision = given[0]
            return {"size": decision.size, "reason": decision.reason}
        case "add_model" | "add_device" | "begin_load":
            return None
    return plain(given)


def _step(step: steps.Step) -> Any:
    written: dict[str, Any] = {}
    if step.late:
        written["late"] = list(step.late)
    if step.displaced:
        written["displaced"] = list(step.displaced)
    if step.wake_at is not None:
        written["wake_at"] = step.wake_at
    if isinstance(step.action, dispatch.Nothing):
        return written
    return {**written, "action": plain(step.action)}


def state_of(scheduler: Scheduler) -> dict[str, Any]:
    """All fields of a scheduler by name: what a log that begins in mid-life begins with."""
    return {one.name: getattr(scheduler, one.name) for one in fields(Scheduler) if one.init}


def with_state(state: Mapping[str, Any]) -> Scheduler:
    """The scheduler of these fields."""
    return Scheduler(**state)
