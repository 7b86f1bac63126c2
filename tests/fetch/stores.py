"""Servers on the loopback with folders in them: plain HTTP, and what a client asks of S3."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from aiohttp import web

from batchwright_worker.fetch.policy import FetchPolicy

LOOPBACK = FetchPolicy(allow_private_addresses=True, allow_http=True)


@dataclass
class Files:
    """Name -> content, served with ranges and ETags. `asked` are (method, name) of the requests, `cuts` how many
    transfers of a name end in the middle."""

    content: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    cuts: dict[str, int] = field(default_factory=dict)
    on_get: Callable[[str], None] = lambda _name: None
    at_once: int = 0
    most_at_once: int = 0

    def app(self) -> web.Application:
        """As a plain web server, and as the S3 bucket `bucket`."""
        app = web.Application()
        app.router.add_route("*", "/bucket{slash:/?}", self._list)
        app.router.add_route("*", "/bucket/{name:.*}", self._answer)
        app.router.add_route("*", "/{name:.*}", self._answer)
        return app

    def names(self, method: str = "GET") -> list[str]:
        """What was asked for by this method."""
        return [name for each, name in self.asked if each == method]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if not name or "list-type" in request.query:
            return await self._list(request)
        self.asked.append((request.method, name))
        self.on_get(name)
        body = self.content.get(name)
        if body is None:
            return web.Response(status=404)
        tag = _tag(body)
        if request.headers.get("If-Match", tag) != tag:
            return web.Response(status=412)
        ranged = "Range" in request.headers and request.headers.get("If-Range", tag) == tag
        start = (request.http_range.start or 0) if ranged else 0
        stop = request.http_range.stop if ranged else None
        part = body[start:stop]
        response = web.StreamResponse(status=206 if ranged else 200, headers={"ETag": tag, "Last-Modified": _DATE})
        if ranged:
            response.headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(body)}"
        response.content_length = len(part)
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        return await self._send(request, response, name, part)

    async def _send(
        self, request: web.Request, response: web.StreamResponse, name: str, part: bytes
    ) -> web.StreamResponse:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.cuts.get(name):
                self.cuts[name] -= 1
                await response.write(part[: len(part) // 2])
                assert request.transport is not None
                request.transport.close()
            else:
                await response.write(part)
                await response.write_eof()
        finally:
            self.at_once -= 1
        return response

    async def _list(self, request: web.Request) -> web.Response:
        """ListObjectsV2, two keys at a time."""
        prefix, after = request.query.get("prefix", ""), request.query.get("continuation-token", "")
        self.asked.append(("LIST", prefix))
        keys = sorted(key for key in self.content if key.startswith(prefix) and key > after)
        page, more = keys[:2], len(keys) > 2
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>{escape(_tag(self.content[key]))}</ETag><Size>{len(self.content[key])}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for key in page
        )
        rest = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        text = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>bucket</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount><MaxKeys>2</MaxKeys>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{rest}{found}</ListBucketResult>"
        )
        return web.Response(text=text, content_type="application/xml")


_DATE = "Thu, 01 Jan 2026 00:00:00 GMT"


def _tag(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


@contextlib.contextmanager
def served_in_thread(files: Files, host: str) -> Iterator[str]:
    """On a free port of this address, whatever the caller does meanwhile; its URL."""
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(files.app())

    async def start() -> int:
        await runner.setup()
        site = web.TCPSite(runner, host, 0)
        await site.start()
        return int(runner.addresses[0][1])

    port = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://{host}:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
