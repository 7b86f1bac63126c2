"""The inference port: Open Inference Protocol v2 and Triton's configuration, statistics and repository calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import ClassVar, Final
from urllib.parse import unquote

import msgspec

from batchwright_worker.api.names import HEADER_EXPECTED_WAIT
from batchwright_worker.engine.engine import Engine
from batchwright_worker.inference.errors import InferenceError
from batchwright_worker.protocol.catalogue import Catalogue
from batchwright_worker.protocol.http.infer import Inference, InferHead
from batchwright_worker.protocol.http.messages import Answer, Handlers, HttpError, Request, error_answer, json_answer
from batchwright_worker.protocol.metrics import CONTENT_TYPE, Metrics
from batchwright_worker.protocol.tensors import Limits

_EXPECTED_WAIT: Final = HEADER_EXPECTED_WAIT.encode()

Handler = Callable[[Request, "Target"], Awaitable[Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a path is about."""

    model: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A path's handler and the methods that it takes."""

    handler: Handler
    methods: tuple[str, ...]
    target: Target
    infers: bool = False


class HttpApp(Handlers):
    """The application of the inference port."""

    inference: ClassVar[type[Inference]] = Inference

    def __init__(
        self,
        engine: Engine,
        catalogue: Catalogue,
        metrics: Metrics,
        limits: Limits,
        *,
        ready: Callable[[], bool],
        repository_control: bool,
    ) -> None:
        super().__init__()
        self._engine = engine
        self._catalogue = catalogue
        self._metrics = metrics
        self._limits = limits
        self._is_ready = ready
        self._repository_control = repository_control
        self._inference = self.inference(engine, catalogue, limits, self.finish, self.broken)

    def finish(self, request: Request, answer: Answer) -> Answer:
        """Every answer tells the wait that a new row would meet."""
        route = request.head.plan
        model = route.target.model if route is not None else ""
        answer.headers.append((_EXPECTED_WAIT, b"%d" % self._catalogue.expected_wait_ms(model)))
        return answer

    async def answered(self, request: Request) -> Answer:
        """See `Handlers`."""
        route = self._route(request)
        if route is None:
            raise HttpError(404, f"there is nothing at {request.path!r}; GET /v2 says what this server is")
        if request.method not in route.methods:
            allowed = ", ".join(route.methods)
            raise HttpError(
                405, f"{request.method} is not allowed here; use {allowed}", ((b"allow", allowed.encode()),)
            )
        return await route.handler(request, route.target)

    # --- routes -----------------------------------------------------------------------------------

    def _route(self, request: Request) -> Route | None:
        """Remembered with the request's head."""
        head = request.head
        if head.plan is None:
            head.plan = self._found([unquote(part) for part in head.path.strip("/").split("/")])
        route: Route | None = head.plan
        return route

    def _found(self, parts: list[str]) -> Route | None:
        match parts:
            case ["v2", "repository", "models", model, "load" | "unload" as action]:
                handler = self._load if action == "load" else self._unload
                return Route(handler=handler, methods=("POST",), target=Target(model=model))
            case ["v2", "models", model, *rest] if parts != ["v2", "models", "stats"]:
                if rest[:1] == ["versions"] and len(rest) > 1:
                    return self._of_model(Target(model=model, version=rest[1]), rest[2:])
                return self._of_model(Target(model=model), rest)
        return self._of_server("/".join(parts))

    def _of_server(self, path: str) -> Route | None:
        if path == "v2/repository/index":
            return Route(handler=self._index, methods=("POST",), target=Target())
        handlers: dict[str, Handler] = {
            "v2": self._server,
            "v2/health/live": self._live,
            "v2/health/ready": self._ready,
            "v2/models/stats": self._statistics,
            "metrics": self._metrics_text,
        }
        return _get(handlers[path]) if path in handlers else None

    def _of_model(self, target: Target, rest: list[str]) -> Route | None:
        if rest == ["infer"]:
            return Route(handler=self._infer, methods=("POST",), target=target, infers=True)
        handlers: dict[tuple[str, ...], Handler] = {
            (): self._model,
            ("ready",): self._model_ready,
            ("config",): self._config,
            ("stats",): self._statistics,
        }
        handler = handlers.get(tuple(rest))
        return None if handler is None else _get(handler, target)

    # --- inference --------------------------------------------------------------------------------

    def handle(self, request: Request) -> None:
        """See `Handlers`: inference goes its own way, all else runs as a task."""
        infer = request.head.infer
        if infer is None and (route := self._route(request)) is not None and route.infers and request.method == "POST":
            infer = self._infer_head(request, route.target)
            if infer is None:
                return
        if infer is None:
            super().handle(request)
            return
        try:
            self._inference.begin(request, infer)
        except InferenceError as error:
            request.caller.answer(self.finish(request, error_answer(error)))

    def _infer_head(self, request: Request, target: Target) -> InferHead | None:
        """Remembered with the head; None where it has been refused."""
        try:
            request.head.infer = known = InferHead(request.head, target.model, target.version)
        except HttpError as error:
            request.caller.answer(self.finish(request, error_answer(error)))
            return None
        return known

    async def _infer(self, request: Request, target: Target) -> Answer:
        raise AssertionError("infer requests do not come here")

    # --- everything else --------------------------------------------------------------------------

    async def _server(self, _request: Request, _target: Target) -> Answer:
        return json_answer(self._catalogue.server())

    async def _live(self, _request: Request, _target: Target) -> Answer:
        return json_answer({"live": True})

    async def _ready(self, _request: Request, _target: Target) -> Answer:
        ready = self._is_ready()
        return json_answer({"ready": ready}, 200 if ready else 503)

    async def _metrics_text(self, _request: Request, _target: Target) -> Answer:
        return Answer(200, self._metrics.text(), [(b"content-type", CONTENT_TYPE)])

    async def _model(self, _request: Request, target: Target) -> Answer:
        self._catalogue.check(target.model, target.version)
        return json_answer(self._catalogue.metadata(target.model))

    async def _model_ready(self, _request: Request, target: Target) -> Answer:
        self._catalogue.check(target.model, target.version)
        ready = self._engine.model_ready(target.model)
        return json_answer({"name": target.model, "ready": ready}, 200 if ready else 503)

    async def _config(self, _request: Request, target: Target) -> Answer:
        self._catalogue.check(target.model, target.version)
        return json_answer(self._catalogue.config(target.model))

    async def _statistics(self, _request: Request, target: Target) -> Answer:
        if target.model:
            self._catalogue.check(target.model, target.version)
        return json_answer(self._catalogue.statistics(target.model or None))

    async def _index(self, request: Request, _target: Target) -> Answer:
        body = request.body(self._limits.json_bytes)
        try:
            asked = msgspec.json.decode(body, type=dict[str, object]) if body else {}
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise HttpError(400, f'the request is no JSON object: {error}; send {{}} or {{"ready": true}}') from error
        return json_answer(self._catalogue.index(ready_only=asked.get("ready") is True))

    async def _load(self, request: Request, target: Target) -> Answer:
        self._check_control(request, target)
        await self._engine.load(target.model)
        return Answer(200, b"{}")

    async def _unload(self, request: Request, target: Target) -> Answer:
        self._check_control(request, target)
        await self._engine.unload(target.model)
        return Answer(200, b"{}")

    def _check_control(self, request: Request, target: Target) -> None:
        request.body(self._limits.json_bytes)
        self._catalogue.check(target.model)
        if not self._repository_control:
            raise HttpError(
                403, "loading and unloading is off here; set spec.repositoryControl: true in the ModelDeployment"
            )


def _get(handler: Handler, target: Target | None = None) -> Route:
    return Route(handler=handler, methods=("GET",), target=target or Target())
