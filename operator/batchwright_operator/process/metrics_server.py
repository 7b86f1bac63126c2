"""The metrics server: the operator's own HTTP port with /metrics, /healthz and /readyz."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest


@asynccontextmanager
async def serve_metrics(
    port: int, registry: CollectorRegistry, *, healthy: Callable[[], str], ready: Callable[[], str]
) -> AsyncIterator[int]:
    """Serves on all addresses while the context lasts; yields the port (which matters for port 0). `healthy` and
    `ready` return an empty text, or what is wrong (503)."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def probe(check: Callable[[], str]) -> Callable[[web.Request], object]:
        async def respond(_: web.Request) -> web.Response:
            problem = check()
            return web.Response(text=problem or "ok", status=503 if problem else 200)

        return respond

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", probe(healthy))  # type: ignore[arg-type]
    app.router.add_get("/readyz", probe(ready))  # type: ignore[arg-type]
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "0.0.0.0", port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
