"""Parameters of an infer request and of its tensors that mean the same over HTTP and gRPC."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from batchwright_worker.inference.errors import BadInput

PRIORITY_MAX: Final = 1 << 32
TIMEOUT_MAX: Final = 1 << 64
"""Microseconds, as of Triton's: far beyond, no float holds them."""
REGION: Final = "shared_memory_region"
_UNSUPPORTED: Final = {
    REGION: "shared memory of the client's machine cannot be read here; send the data in the body",
}


def deadline_of(timeout: object, arrival: float) -> float | None:
    """From the protocol's parameter `timeout` in microseconds (absent or 0: none). Raises BadInput."""
    if timeout is None or timeout == 0:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int) or not 0 < timeout < TIMEOUT_MAX:
        raise BadInput(
            "parameter 'timeout' is wrong: wanted a whole number of microseconds below 2**64, given "
            f"{_shown(timeout)}; leave it out for none",
            wanted="microseconds",
            given=_shown(timeout),
        )
    return arrival + timeout / 1e6


def priority_of(parameters: Mapping[str, Any]) -> int:
    """The protocol's parameter `priority`, 0 where absent; sequences are refused here too. Raises BadInput."""
    if parameters.get("sequence_id"):
        raise BadInput(
            "parameter 'sequence_id' is set: sequences are not served here; leave it out, rows are independent"
        )
    priority = parameters.get("priority", 0)
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority < PRIORITY_MAX:
        raise BadInput(
            f"parameter 'priority' is wrong: wanted a whole number from 0 to {PRIORITY_MAX - 1}, given "
            f"{_shown(priority)}; 1 is served first, 0 is the default",
            wanted=f"0 to {PRIORITY_MAX - 1}",
            given=_shown(priority),
        )
    return priority


def refuse_unsupported(parameters: Mapping[str, Any], where: str, *, regions: bool = False) -> None:
    """Raises BadInput for a parameter whose extension is not served; `regions`: shared memory is."""
    for name, remedy in _UNSUPPORTED.items():
        if parameters.get(name) and not (regions and name == REGION):
            raise BadInput(f"{where}: parameter {name!r} is not supported: {remedy}")


def check_once(name: str, known: Collection[str]) -> None:
    """Raises BadInput for an output that has been asked for already."""
    if name in known:
        raise BadInput(f"output {name!r} is asked for twice; name each output once")


def check_unload(parameters: Mapping[str, Any]) -> None:
    """Of a call that unloads a model; it may unload dependents too, there are none. Raises BadInput."""
    for name in parameters:
        if name != "unload_dependents":
            raise BadInput(f"parameter {name!r} is not known: an unload has unload_dependents alone; leave it out")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}.."
