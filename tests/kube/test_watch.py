"""A watch as the caches need it, against a server of its own: whole lines or an error, of any length."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
import yaml
from aiohttp import web

from batchwright_operator.errors import Gone, Unavailable
from batchwright_operator.kube.client import ApiClient
from batchwright_operator.kube.credentials import find_credentials
from batchwright_operator.kube.objects import POD, Raw
from batchwright_operator.kube.responses import WatchEvent

Respond = Callable[[web.StreamResponse], Awaitable[None]]


def line(kind: str, body: Raw) -> bytes:
    return msgspec.json.encode({"type": kind, "object": body}) + b"\n"


POD_5 = {"metadata": {"name": "p", "resourceVersion": "5"}}


class Server:
    """Answers one watch: with `status`, and then as `respond` writes."""

    def __init__(self) -> None:
        self.status = 200
        self.queries: list[dict[str, str]] = []
        self.respond: Respond = self.nothing

    async def nothing(self, _: web.StreamResponse) -> None:
        return

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.queries.append(dict(request.query))
        response = web.StreamResponse(status=self.status)
        await response.prepare(request)
        await self.respond(response)
        return response

    def writes(self, *chunks: bytes) -> None:
        async def respond(response: web.StreamResponse) -> None:
            for chunk in chunks:
                await response.write(chunk)

        self.respond = respond


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def client(server: Server, tmp_path: Path) -> AsyncIterator[ApiClient]:
    app = web.Application()
    app.router.add_get("/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    document = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "c", "user": {"token": "t"}}],
    }
    kubeconfig = tmp_path / "config"
    await asyncio.to_thread(kubeconfig.write_text, yaml.safe_dump(document))
    async with ApiClient(await asyncio.to_thread(find_credentials, kubeconfig)) as client:
        yield client
    await runner.cleanup()


async def watch(client: ApiClient, stale_s: float = 5.0) -> list[WatchEvent]:
    return [event async for event in client.watch(POD, 4, stale_s=stale_s)]


async def test_events_and_bookmarks_in_any_pieces(client: ApiClient, server: Server) -> None:
    text = line("ADDED", POD_5) + b"\n" + line("BOOKMARK", POD_5)
    server.writes(text[:7], text[7:-3], text[-3:])
    assert [event.type for event in await watch(client)] == ["ADDED", "BOOKMARK"]
    (query,) = server.queries
    assert (query["resourceVersion"], query["allowWatchBookmarks"]) == ("4", "true")


async def test_a_line_of_any_length(client: ApiClient, server: Server) -> None:
    server.writes(line("ADDED", POD_5 | {"data": "x" * 6_000_000}))
    (event,) = await watch(client)
    assert len(event.object["data"]) == 6_000_000


async def test_half_a_line_is_no_event(client: ApiClient, server: Server) -> None:
    server.writes(line("ADDED", POD_5), b'{"type":"ADD')
    assert [event.type for event in await watch(client)] == ["ADDED"]
    server.writes(b'{"type":"ADD\n')
    with pytest.raises(Unavailable, match="broken"):
        await watch(client)


async def test_a_refusal_that_is_no_json(client: ApiClient, server: Server) -> None:
    server.status = 503
    server.writes(b"<html>try later</html>\n")
    with pytest.raises(Unavailable, match="try later"):
        await watch(client)


async def test_a_version_that_is_too_old(client: ApiClient, server: Server) -> None:
    server.writes(line("ERROR", {"code": 410, "reason": "Expired", "message": "too old"}))
    with pytest.raises(Gone):
        await watch(client)
    assert len(server.queries) == 1, "the same version is not asked for again"


async def test_silence(client: ApiClient, server: Server) -> None:
    async def respond(response: web.StreamResponse) -> None:
        await response.write(line("ADDED", POD_5))
        await asyncio.sleep(3600)

    server.respond = respond
    async with asyncio.timeout(60):
        with pytest.raises(Unavailable):
            await watch(client, stale_s=0.2)
