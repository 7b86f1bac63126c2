"""The control port: health, state by long-poll, a new configuration, drain before the end, load and unload; for the
operator and kubelet.

It is served by a thread of its own (`control_thread`), and asks the sidecar's event loop what it does not know: however
long that is busy, probes get an answer, and it is the right one.

State, configuration, load and unload need the deployment's token. Drain and drained cannot: a preStop hook has no way
to carry one. Kubelet calls from the node's address to the pod's, so the source address proves nothing either; the pod's
NetworkPolicy keeps everyone else out. What an intruder could do is to make this replica unready, not to read or change
anything.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl

import msgspec

from batchwright_worker.api.messages import SidecarState
from batchwright_worker.api.names import CONFIGURATION_PATH, STATE_PATH
from batchwright_worker.protocol.catalogue import Catalogue
from batchwright_worker.protocol.http.messages import HttpError, HttpRequest, HttpResponse, TaskApp, json_response
from batchwright_worker.sidecar.configuration import Configuration, ConfigurationError, document
from batchwright_worker.sidecar.drain import Drain
from batchwright_worker.sidecar.main_loop import LoopStuckError, MainLoop
from batchwright_worker.sidecar.probes import DOUBTFUL_S, Probes

_WAIT_MOST_S = 60.0
_TURN_S = 30.0
"""How long what is asked of the event loop waits for it to turn."""
_BODY_BYTES = 1 << 16
_CONFIGURATION_BYTES = 2 << 20
"""A ConfigMap holds 1 MiB."""


class ModelBody(msgspec.Struct):
    """Body of /v1/load and /v1/unload."""

    model: str


def token_from(path: Path) -> Callable[[], bytes]:
    """A reader of the token: from the file each time, so that a changed Secret takes effect. Raises OSError if there is
    none now."""
    path.read_bytes()
    return lambda: path.read_bytes().strip()


class ControlApp(TaskApp):
    """The application of the control port, on an event loop of its own; `main` is that of engine and drain."""

    def __init__(
        self,
        catalogue: Catalogue,
        drain: Drain,
        configuration: Configuration,
        token: Callable[[], bytes],
        probes: Probes,
        main: MainLoop,
    ) -> None:
        super().__init__()
        self._engine = catalogue.engine
        self._catalogue = catalogue
        self._drain = drain
        self._configuration = configuration
        self._token = token
        self._probes = probes
        self._main = main

    async def respond_to(self, request: HttpRequest) -> HttpResponse:
        """See `TaskApp`."""
        if request.method in ("GET", "HEAD") and (probed := await self._probes.respond(request.path)) is not None:
            return probed
        match request.method, request.path:
            case "GET", path if path == STATE_PATH:
                return await self._state(request)
            case "GET", "/v1/drain":
                await self._main.call(self._drain.run, _TURN_S)
                return json_response({"drained": True})
            case "GET", "/v1/drained":
                return await self._drained(request)
            case "PUT", path if path == CONFIGURATION_PATH:
                return await self._configure(request)
            case "POST", "/v1/load" | "/v1/unload" as path:
                return await self._residency(request, path)
        raise HttpError(
            404,
            f"there is nothing at {request.method} {request.path!r}; there are GET {STATE_PATH}, GET /v2/health/live, "
            f"GET /v2/health/ready, GET /v2/models/NAME/ready, PUT {CONFIGURATION_PATH}, GET /v1/drain, "
            "GET /v1/drained, POST /v1/load, POST /v1/unload",
        )

    async def _state(self, request: HttpRequest) -> HttpResponse:
        """The state as soon as its revision is above `after`, after `waitSeconds` in any case."""
        self._authorize(request)
        query = _query(request)
        after, wait_s = _number(query, "after", -1), min(_WAIT_MOST_S, _number(query, "waitSeconds", 0))
        request.cancel_on_disconnect()

        async def next_state() -> SidecarState:
            await self._engine.wait_for_revision(int(after), wait_s)
            return self._probes.read_state()

        try:
            # Beyond the wait by what a loop may take to turn: it may have stopped after it was asked.
            async with asyncio.timeout(wait_s + DOUBTFUL_S):
                state = await self._main.call(next_state, DOUBTFUL_S)
        except (LoopStuckError, TimeoutError):
            state = await self._probes.state()
        return json_response(state)

    async def _configure(self, request: HttpRequest) -> HttpResponse:
        self._authorize(request)
        try:
            new = document(request.body(_CONFIGURATION_BYTES))

            async def take() -> None:
                self._configuration.take(new)

            await self._main.call(take, _TURN_S)
        except ConfigurationError as error:
            raise HttpError(409 if error.conflict else 400, f"the configuration stays as it was: {error}") from error
        return json_response({"generation": new.generation, "digest": new.digest})

    async def _drained(self, request: HttpRequest) -> HttpResponse:
        request.cancel_on_disconnect()
        wait_s = _number(_query(request), "waitSeconds", 3600)
        drained = await self._main.call(lambda: self._drain.wait(wait_s), _TURN_S)
        return json_response({"drained": drained}, 200 if drained else 503)

    async def _residency(self, request: HttpRequest, path: str) -> HttpResponse:
        self._authorize(request)
        body = request.body(_BODY_BYTES)
        try:
            model = msgspec.json.decode(body, type=ModelBody).model
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise HttpError(400, f'the body is wrong: {error}; send {{"model": NAME}}') from error
        self._catalogue.check(model)
        act = self._engine.load if path == "/v1/load" else self._engine.unload
        await self._main.call(lambda: act(model), _TURN_S)
        return json_response({"model": model})

    def _authorize(self, request: HttpRequest) -> None:
        given = request.headers.get(b"authorization", b"")
        if not hmac.compare_digest(given, b"Bearer " + self._token()):
            raise HttpError(
                401,
                "wrong token: send Authorization: Bearer with the deployment's token",
                ((b"www-authenticate", b"Bearer"),),
            )


def _query(request: HttpRequest) -> dict[str, str]:
    return dict(parse_qsl(request.query.decode("latin-1")))


def _number(query: dict[str, str], name: str, default: float) -> float:
    text = query.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not -1 <= value <= 1e15:
        raise HttpError(400, f"query parameter {name!r} is wrong: wanted a number, given {text!r}")
    return value
