"""The inference port: Open Inference Protocol v2 and Triton's configuration, statistics and repository calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import unquote

import msgspec

from batchwright_worker.engine.engine import Engine
from batchwright_worker.inference.errors import InferenceError
from batchwright_worker.protocol.catalogue import Catalogue
from batchwright_worker.protocol.http.compressed import CompressedRequests
from batchwright_worker.protocol.http.infer import EXPECTED_WAIT, Inference, InferHead
from batchwright_worker.protocol.http.messages import (
    HttpError,
    HttpRequest,
    HttpResponse,
    TaskApp,
    error_response,
    json_response,
)
from batchwright_worker.protocol.http.more_routes import MoreRoutes
from batchwright_worker.protocol.http.paths import ALLOWED, PATHS, Answer, Target
from batchwright_worker.protocol.http.plain_bodies import decoded, plain_body
from batchwright_worker.protocol.http.region_routes import RegionRoutes
from batchwright_worker.protocol.large_bodies import LargeBodies
from batchwright_worker.protocol.limits import Limits
from batchwright_worker.protocol.load_overrides import take_overrides
from batchwright_worker.protocol.metrics import CONTENT_TYPE, Metrics
from batchwright_worker.protocol.parameters import check_unload
from batchwright_worker.protocol.request_memory import RequestMemory
from batchwright_worker.protocol.shared_memory import Regions
from batchwright_worker.protocol.triton_settings import check_log, check_trace, log_settings, trace_settings

Handler = Callable[[HttpRequest, Target], Awaitable[HttpResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerRoute:
    """A path whose requests a handler answers, in a task of their own."""

    method: str
    handler: Handler
    target: Target


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRoute:
    """The path of a model's infer requests, which the engine's callbacks answer."""

    method: ClassVar[str] = "POST"
    target: Target


Route = HandlerRoute | InferRoute


class IndexBody(msgspec.Struct):
    """Body of a repository index."""

    ready: bool = False


class ControlBody(msgspec.Struct):
    """Body of a load or unload."""

    parameters: dict[str, Any] = {}


class HttpApp(TaskApp):
    """The application of the inference port."""

    inference: ClassVar[type[Inference]] = Inference

    def __init__(  # noqa: PLR0913 - the parts of the process that it answers for
        self,
        engine: Engine,
        catalogue: Catalogue,
        metrics: Metrics,
        limits: Limits,
        *,
        ready: Callable[[], bool],
        repository_control: bool,
        memory: RequestMemory | None = None,
        large: LargeBodies | None = None,
        regions: Regions | None = None,
        more: MoreRoutes | None = None,
    ) -> None:
        super().__init__()
        self._more = more
        self._engine = engine
        self._catalogue = catalogue
        self._metrics = metrics
        self._limits = limits
        self._is_ready = ready
        self._repository_control = repository_control
        memory, large = memory or RequestMemory(), large or LargeBodies()
        of_regions = RegionRoutes(regions, limits)
        self._handlers: dict[Answer, Handler] = {
            "config": self._config,
            "index": self._index,
            "live": self._live,
            "load": self._load,
            "log_settings": self._log_settings,
            "metrics": self._metrics_text,
            "model": self._model,
            "model_ready": self._model_ready,
            "ready": self._ready,
            "region_register": of_regions.register,
            "region_status": of_regions.status,
            "region_unregister": of_regions.unregister,
            "server": self._server,
            "statistics": self._statistics,
            "trace_settings": self._trace_settings,
            "unload": self._unload,
        }
        self._inference = self.inference(
            engine, catalogue, limits, memory, large, self.with_common_headers, regions=regions
        )
        self._compressed = CompressedRequests(self._inference.begin, limits, memory, self.with_common_headers)

    def with_common_headers(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        """See `App`: every response carries the wait that a new row would meet."""
        if self._more is not None:
            response = self._more.in_their_form(request.path, response)
        route = request.head.route
        model = route.target.model if route is not None else ""
        response.headers.append((EXPECTED_WAIT, b"%d" % self._catalogue.expected_wait_ms(model)))
        return response

    def handle(self, request: HttpRequest) -> None:
        """See `App`: infer requests go to the engine at once, all others to a handler in a task."""
        infer: InferHead | None = request.head.infer
        try:
            if infer is None:
                infer = self._infer_head(request)
            if infer is not None:
                if infer.codings is None:
                    self._inference.begin(request, infer)
                else:
                    self._compressed.begin(request, infer)
                return
        except (InferenceError, HttpError) as error:
            request.caller.respond(self.with_common_headers(request, error_response(error)))
            return
        super().handle(request)

    async def respond_to(self, request: HttpRequest) -> HttpResponse:
        """See `TaskApp`."""
        route = self._route(request)
        if route is None:
            raise HttpError(404, f"there is nothing at {request.path!r}; GET /v2 says what this server is")
        allowed = ALLOWED[route.method]
        if isinstance(route, InferRoute) or request.method not in allowed:
            raise HttpError(
                405,
                f"{request.method} is not allowed here; use {route.method}",
                ((b"allow", ", ".join(allowed).encode()),),
            )
        return await route.handler(request, route.target)

    # --- routes -----------------------------------------------------------------------------------

    def _route(self, request: HttpRequest) -> Route | None:
        """Remembered with the request's head."""
        head = request.head
        if head.route is None:
            head.route = self._found([unquote(part) for part in head.path.strip("/").split("/")])
        route: Route | None = head.route
        return route

    def _infer_head(self, request: HttpRequest) -> InferHead | None:
        """Remembered with the request's head; None unless this is an infer request. Raises HttpError."""
        route = self._route(request)
        if not isinstance(route, InferRoute) or request.method != route.method:
            return None
        request.head.infer = known = InferHead(request.head, route.target.model, route.target.version)
        return known

    def _found(self, parts: list[str]) -> Route | None:
        found = PATHS.found(parts)
        if found is None:
            return None if self._more is None else self._of_others(self._more, parts)
        path, target = found
        if path.answer == "infer":
            return InferRoute(target=target)
        return HandlerRoute(method=path.method, handler=self._handlers[path.answer], target=target)

    def _of_others(self, more: MoreRoutes, parts: list[str]) -> Route | None:
        found = more.found(parts)
        if found is None:
            return None
        method, answer = found

        async def handler(request: HttpRequest, _target: Target) -> HttpResponse:
            return await answer(request)

        return HandlerRoute(method=method, handler=handler, target=Target())

    # --- handlers ---------------------------------------------------------------------------------

    async def _server(self, _request: HttpRequest, _target: Target) -> HttpResponse:
        return json_response(self._catalogue.server())

    async def _live(self, _request: HttpRequest, _target: Target) -> HttpResponse:
        return json_response({"live": True})

    async def _ready(self, _request: HttpRequest, _target: Target) -> HttpResponse:
        ready = self._is_ready()
        return json_response({"ready": ready}, 200 if ready else 503)

    async def _metrics_text(self, _request: HttpRequest, _target: Target) -> HttpResponse:
        return HttpResponse(200, self._metrics.text(), [(b"content-type", CONTENT_TYPE)])

    async def _model(self, _request: HttpRequest, target: Target) -> HttpResponse:
        self._catalogue.check(target.model, target.version)
        return json_response(self._catalogue.metadata(target.model))

    async def _model_ready(self, _request: HttpRequest, target: Target) -> HttpResponse:
        self._catalogue.check(target.model, target.version)
        ready = self._engine.model_ready(target.model)
        return json_response({"name": target.model, "ready": ready}, 200 if ready else 503)

    async def _config(self, _request: HttpRequest, target: Target) -> HttpResponse:
        self._catalogue.check(target.model, target.version)
        return json_response(self._catalogue.config(target.model))

    async def _statistics(self, _request: HttpRequest, target: Target) -> HttpResponse:
        if target.model:
            self._catalogue.check(target.model, target.version)
        return json_response(self._catalogue.statistics(target.model or None))

    async def _trace_settings(self, request: HttpRequest, target: Target) -> HttpResponse:
        if target.model:
            self._catalogue.check(target.model, target.version)
        if request.method == "POST":
            check_trace(decoded(plain_body(request, self._limits), dict[str, Any], "{}"))
        return json_response(trace_settings())

    async def _log_settings(self, request: HttpRequest, _target: Target) -> HttpResponse:
        if request.method == "POST":
            check_log(decoded(plain_body(request, self._limits), dict[str, Any], "{}"))
        return json_response(log_settings())

    async def _index(self, request: HttpRequest, _target: Target) -> HttpResponse:
        body = plain_body(request, self._limits)
        wanted = decoded(body, IndexBody, '{} or {"ready": true}')
        return json_response(self._catalogue.index(ready_only=wanted.ready))

    async def _load(self, request: HttpRequest, target: Target) -> HttpResponse:
        take_overrides(self._catalogue, target.model, self._control_parameters(request, target))
        await self._engine.load(target.model)
        return HttpResponse(200, b"{}")

    async def _unload(self, request: HttpRequest, target: Target) -> HttpResponse:
        check_unload(self._control_parameters(request, target))
        await self._engine.unload(target.model)
        return HttpResponse(200, b"{}")

    def _control_parameters(self, request: HttpRequest, target: Target) -> dict[str, Any]:
        body = plain_body(request, self._limits)
        self._catalogue.check(target.model)
        if not self._repository_control:
            raise HttpError(
                403, "loading and unloading is off here; set spec.repositoryControl: true in the ModelDeployment"
            )
        return decoded(body, ControlBody, "{}").parameters
