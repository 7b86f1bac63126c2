"""Messages that are none of the protocol: an answer that says so.

grpc.aio would answer UNKNOWN with the parser's words and write a traceback into the log, for every such message.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

WHY: Final = "the message cannot be read: it is none of inference.proto, or a text in it is no UTF-8; send it again"


class Unreadable:
    """Stands for such a message."""


UNREADABLE: Final = Unreadable()


class Registrar:
    """The server, as generated code registers a service with it: unary methods never see an unreadable message, streams
    get `UNREADABLE` in its place."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, _handlers: Any) -> None:
        """Not these: they do not say what they handle. The registered ones are all of them."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """See `grpc.aio.Server`."""
        reading = {method: _reading(handler) for method, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, reading),))
        self._server.add_registered_method_handlers(service, reading)


def _reading(handler: Any) -> Any:
    read = handler.request_deserializer

    def reads(data: bytes) -> Any:
        try:
            return read(data)
        except DecodeError:
            return UNREADABLE

    unary = None if handler.unary_unary is None else _checked(handler.unary_unary)
    return handler._replace(request_deserializer=reads, unary_unary=unary)


def _checked(method: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    async def checked(request: Any, context: Any) -> Any:
        if request is UNREADABLE:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, WHY)
        return await method(request, context)

    return checked
