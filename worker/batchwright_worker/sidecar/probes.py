"""What kubelet asks: is the process alive, is the replica ready, is a model? Answered from another thread than the one
that works, which is asked when it has a moment, and believed for a while when it has none.

Not live is only an event loop that has not turned for long: a restart costs the queue and all models. Not ready is one
that has not turned for DOUBTFUL_S; a loop that computes for a second leaves the replica as ready as it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol
from urllib.parse import unquote

import msgspec

from batchwright_worker.api.messages import SidecarState
from batchwright_worker.protocol.catalogue import Catalogue
from batchwright_worker.protocol.http.messages import HttpResponse, json_response
from batchwright_worker.sidecar.main_loop import LoopStuckError, MainLoop

DOUBTFUL_S: Final = 10.0
SILENT_RUNTIME_S: Final = 60.0
"""A runtime that has answered before and then nothing for so long is not live: its container is started anew."""
_TURN_S: Final = 1.0
"""How long a probe waits for the event loop; kubelet gives it 5 s."""


class ProbedRuntime(Protocol):
    """What is asked of a runtime's client."""

    @property
    def device(self) -> str:
        """Its name."""

    @property
    def silent_since(self) -> float | None:
        """Since when (monotonic) it owes an answer."""


class Probes:
    """`read_state` gives the state that the operator sees; it is called on the event loop `main`. `stuck_s`: how long
    that may not turn before the process is said to be dead."""

    def __init__(
        self,
        catalogue: Catalogue,
        read_state: Callable[[], SidecarState],
        runtimes: Sequence[ProbedRuntime],
        main: MainLoop,
        stuck_s: float,
    ) -> None:
        self.read_state = read_state
        self._runtimes = {runtime.device: runtime for runtime in runtimes}
        self._catalogue = catalogue
        self._main = main
        self._stuck_s = stuck_s
        self._last = SidecarState(revision=-1, time=0.0, ready=False, message="this replica is starting", models=[])
        self._last_ready: dict[str, bool] = {}
        """By model."""

    async def respond(self, path: str) -> HttpResponse | None:
        """The response to a GET or HEAD of this path; None if it is no probe's. Raises UnknownModel."""
        match path.strip("/").split("/"):
            case ["v2", "health", "live"]:
                return await self._live()
            case ["v2", "health", "ready"]:
                return await self._ready()
            case ["v2", "models", model, "ready"]:
                return await self._model_ready(unquote(model))
            case ["v1", "runtimes", device, "live"] if device in self._runtimes:
                return self._runtime_live(self._runtimes[device])
        return None

    async def state(self) -> SidecarState:
        """The state now, or the last one that is known, not ready once that is too old."""
        if await self._main.turned(_TURN_S):
            self._last = await self._main.call(self._read, _TURN_S)
        elif (silent_s := self._main.silent_s) > DOUBTFUL_S:
            return msgspec.structs.replace(self._last, ready=False, message=str(LoopStuckError(silent_s)))
        return self._last

    async def _read(self) -> SidecarState:
        return self.read_state()

    async def _live(self) -> HttpResponse:
        await self._main.turned(_TURN_S)
        silent_s = self._main.silent_s
        if silent_s > self._stuck_s:
            return json_response({"live": False, "message": str(LoopStuckError(silent_s))}, 503)
        return json_response({"live": True})

    def _runtime_live(self, runtime: ProbedRuntime) -> HttpResponse:
        """Its supervisor replaces a process that dies or hangs within a second; what stays away for long needs a new
        container. One that was never there may still be starting."""
        since = runtime.silent_since
        silent_s = 0.0 if since is None else time.monotonic() - since
        if silent_s > SILENT_RUNTIME_S:
            return json_response({"live": False, "message": f"it has not answered for {silent_s:.0f} s"}, 503)
        return json_response({"live": True})

    async def _ready(self) -> HttpResponse:
        state = await self.state()
        body = {"ready": state.ready} | ({"message": state.message} if state.message else {})
        return json_response(body, 200 if state.ready else 503)

    async def _model_ready(self, name: str) -> HttpResponse:
        self._catalogue.check_name(name)
        engine = self._catalogue.engine

        async def read() -> bool:
            return name in engine.publisher.views and engine.model_ready(name)

        if await self._main.turned(_TURN_S):
            self._last_ready[name] = await self._main.call(read, _TURN_S)
        ready = self._last_ready.get(name, False) and self._main.silent_s <= DOUBTFUL_S
        return json_response({"name": name, "ready": ready}, 200 if ready else 503)
