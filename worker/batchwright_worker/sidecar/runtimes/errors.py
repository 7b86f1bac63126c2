"""What a runtime's answer means to the engine."""

from __future__ import annotations

from typing import TypeVar

from batchwright_worker.inference.runtime import BatchFailed, OutOfMemory
from batchwright_worker.ipc.messages import Answer, LoadRefused

A = TypeVar("A")


def expect(answer: Answer, wanted: type[A]) -> A:
    """The answer, or what its refusal means."""
    if isinstance(answer, wanted):
        return answer
    if isinstance(answer, LoadRefused):
        raise OutOfMemory(answer.message) if answer.kind == "OutOfMemory" else BatchFailed(answer.message)
    raise BatchFailed(f"the runtime answered {type(answer).__name__} where {wanted.__name__} was due")
