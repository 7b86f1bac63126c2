"""Paths of the calls with texts: /v1/embeddings, /v1/models, /v1/rerank and /v2/rerank."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Literal, assert_never

from batchwright_worker.inference.errors import InferenceError, UnknownModel
from batchwright_worker.language.errors import BadCall, TaskUnusable, error_response, of_other_errors
from batchwright_worker.language.openai_bodies import model_entry
from batchwright_worker.language.service import TextService
from batchwright_worker.protocol.http.messages import HttpError, HttpRequest, HttpResponse, json_response
from batchwright_worker.protocol.http.paths import PathTable, PathTemplate
from batchwright_worker.protocol.http.plain_bodies import plain_body
from batchwright_worker.protocol.limits import Limits

CALLS_WITH_TEXTS: Final = ("/v1/", "/v2/rerank")
"""What paths begin with."""
TextAnswer = Literal["embeddings", "model", "models", "rerank 1", "rerank 2"]
PATHS: Final[PathTable[TextAnswer]] = PathTable(
    PathTemplate("POST", "/v1/embeddings", "embeddings"),
    PathTemplate("POST", "/v1/rerank", "rerank 1"),
    PathTemplate("POST", "/v2/rerank", "rerank 2"),
    PathTemplate("GET", "/v1/models", "models"),
    PathTemplate("GET", "/v1/models/{model}", "model"),
)
Answer = Callable[[HttpRequest], Awaitable[HttpResponse]]


class TextRoutes:
    """See `protocol/http/more_routes`."""

    def __init__(self, service: TextService, limits: Limits) -> None:
        self._service = service
        self._limits = limits
        self._began = int(time.time())

    def found(self, parts: list[str]) -> tuple[str, Answer] | None:
        """The method and the handler of a path."""
        found = PATHS.found(parts)
        if found is None:
            return None
        path, target = found
        return path.method, partial(self._answered, self._answer(path.answer, target.model))

    def _answer(self, name: TextAnswer, model: str) -> Answer:
        match name:
            case "embeddings":
                return self._embeddings
            case "rerank 1" | "rerank 2":
                return partial(self._rerank, name[-1])
            case "models":
                return self._models
            case "model":
                return partial(self._model, model)
        assert_never(name)

    def in_their_form(self, path: str, response: HttpResponse) -> HttpResponse:
        """An error that somebody else has made, as clients of this path read it."""
        if response.status >= 400 and path.startswith(CALLS_WITH_TEXTS):
            return of_other_errors(response)
        return response

    async def _answered(self, answer: Answer, request: HttpRequest) -> HttpResponse:
        try:
            return await answer(request)
        except (BadCall, TaskUnusable, InferenceError, HttpError) as error:
            return error_response(error)

    async def _embeddings(self, request: HttpRequest) -> HttpResponse:
        arrival = self._service.clock()
        request.cancel_on_disconnect()
        content = plain_body(request, self._limits)
        return HttpResponse(200, await self._service.embeddings(content, arrival, _patience_s(request)))

    async def _rerank(self, version: str, request: HttpRequest) -> HttpResponse:
        arrival = self._service.clock()
        request.cancel_on_disconnect()
        content = plain_body(request, self._limits)
        return HttpResponse(200, await self._service.rerank(content, arrival, _patience_s(request), version))

    async def _models(self, _request: HttpRequest) -> HttpResponse:
        return json_response(
            {"object": "list", "data": [model_entry(name, self._began) for name in sorted(self._service.models)]}
        )

    async def _model(self, name: str, _request: HttpRequest) -> HttpResponse:
        if name not in self._service.models:
            raise UnknownModel(f"there is no model {name!r} with a task; GET /v1/models lists them")
        return json_response(model_entry(name, self._began))


def _patience_s(request: HttpRequest) -> float | None:
    """OpenAI's clients say how long they read; nobody waits for an answer that comes later."""
    text = request.headers.get(b"x-stainless-read-timeout", b"")
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 < seconds < 86_400 else None
