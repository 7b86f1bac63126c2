"""Calls that arrive together are submitted together.

grpc.aio hands each call to the event loop by itself, several rounds of the loop for each, where one read of an HTTP
port brings many requests. Submitted one by one they would run one by one where the device is quicker than the front
end, and a batch costs this process more than a call does: 64 callers of a model that does nothing got 1.4 rows per
batch and took 1.4 to 1.6 times the CPU per call (`python -m e2e.bench.grpc`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from batchwright_worker.engine.engine import Engine
from batchwright_worker.engine.pending import PendingRequest
from batchwright_worker.inference.errors import InferenceError
from batchwright_worker.inference.requests import InferRequest, InferResult
from batchwright_worker.protocol.shared_memory import Place

QUIET_ROUNDS: Final = 8
"""So many rounds of the event loop without another call end a burst: some ten microseconds where the loop has nothing
else to do. A call takes about five rounds, so with four bursts ended between two calls that were both there."""
LONGEST_S: Final = 0.004
"""A loop that always has another call does not hold the first one back for longer."""
Outcome = InferResult | InferenceError


@dataclass(slots=True)
class SubmittedCall:
    """A request, and its outcome to come; `pending` once the engine has it. `places`: of outputs in shared memory;
    `classes`: of which outputs how many are wanted."""

    request: InferRequest
    outcome: asyncio.Future[Outcome]
    pending: PendingRequest | None = None
    places: Mapping[str, Place] | None = None
    classes: Mapping[str, int] | None = None


class Bursts:
    """One per event loop. `submit` is the engine's."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._calls: list[SubmittedCall] = []
        self._quiet = 0
        self._began = 0.0

    def add(self, request: InferRequest) -> SubmittedCall:
        """Submit it with the other calls of its burst."""
        loop = asyncio.get_running_loop()
        call = SubmittedCall(request, loop.create_future())
        if not self._calls:
            self._began = self._engine.clock()
            loop.call_soon(self._round)
        self._calls.append(call)
        self._quiet = 0
        return call

    def cancel(self, call: SubmittedCall) -> None:
        """Its caller has left."""
        call.outcome.cancel()
        if call.pending is not None:
            self._engine.cancel(call.pending)

    def _round(self) -> None:
        self._quiet += 1
        if self._quiet < QUIET_ROUNDS and self._engine.clock() - self._began < LONGEST_S:
            asyncio.get_running_loop().call_soon(self._round)
            return
        calls, self._calls = self._calls, []
        for call in calls:
            if not call.outcome.done():
                self._submit(call)

    def _submit(self, call: SubmittedCall) -> None:
        try:
            call.pending = self._engine.submit(call.request, partial(_settle, call.outcome))
        except InferenceError as error:
            _settle(call.outcome, error)
        except Exception as error:
            call.outcome.set_exception(error)


class Singly(Bursts):
    """Each call is submitted at once, in the context of whoever adds it."""

    def add(self, request: InferRequest) -> SubmittedCall:
        """See `Bursts`."""
        call = SubmittedCall(request, asyncio.get_running_loop().create_future())
        self._submit(call)
        return call


def _settle(answer: asyncio.Future[Outcome], outcome: Outcome) -> None:
    """The engine's callback."""
    if not answer.done():
        answer.set_result(outcome)
