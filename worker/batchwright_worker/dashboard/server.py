"""The server of the page: on this machine's loopback alone, read only.

A page of another origin that the user's browser has open must learn nothing. So requests are answered only under a
loopback name (a foreign name that resolves to 127.0.0.1 is not one), never for another origin, and events only with
the token that is in the address which was printed: in its fragment, which no browser sends anywhere.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from batchwright_worker.dashboard.feed import Feed
from batchwright_worker.dashboard.page import TYPES, content, policy

LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
HEADERS: Final = {
    "Content-Security-Policy": policy() + "; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def page_served(feed: Feed, *, port: int = 0) -> AsyncIterator[str]:
    """Serves while the context lasts; yields the address to open. Raises OSError if the port is taken."""
    token = secrets.token_urlsafe(24)
    app = web.Application(middlewares=[_only_this_machine])
    for name in TYPES:
        app.router.add_get("/" if name == "index.html" else f"/{name}", _file(name))
    app.router.add_get("/events", _events(feed, token))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/#{token}"
    finally:
        await runner.cleanup()


@web.middleware
async def _only_this_machine(request: web.Request, handler: Handler) -> web.StreamResponse:
    host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
    if urlsplit(f"//{host}").hostname not in LOOPBACK:
        raise web.HTTPMisdirectedRequest(text="this page is served under 127.0.0.1 and localhost alone\n")
    if origin is not None and origin != f"http://{host}":
        raise web.HTTPForbidden(text="not for pages of another origin\n")
    return await handler(request)


def _file(name: str) -> Handler:
    async def respond(_: web.Request) -> web.StreamResponse:
        return web.Response(body=content(name), headers={**HEADERS, "Content-Type": TYPES[name]})

    return respond


def _events(feed: Feed, token: str) -> Handler:
    async def respond(request: web.Request) -> web.StreamResponse:
        if not hmac.compare_digest(request.query.get("token", "").encode(), token.encode()):
            raise web.HTTPForbidden(text="the token is in the address that was printed\n")
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            async for event in feed.events():
                await response.write(event)
        except ConnectionResetError:
            pass  # the page was closed
        return response

    return respond
