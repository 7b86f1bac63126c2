"""The runner's control port: GET STATE_PATH, as a long-poll, with the token that the operator issued."""

from __future__ import annotations

import hmac
from pathlib import Path

import msgspec
from aiohttp import web

from batchwright_worker.api import names as contract
from batchwright_worker.runner.progress import Published

MAX_WAIT_SECONDS = 60.0


def read_token(path: Path = Path(contract.TOKEN_FILE)) -> str | None:
    """The token, None where none is mounted (then there is no control port)."""
    try:
        return path.read_text().strip() or None
    except (FileNotFoundError, NotADirectoryError):
        return None


class ControlPort:
    """`start` and `stop`; answers 401 without the token."""

    def __init__(self, published: Published, token: str, *, port: int = contract.CONTROL_PORT) -> None:
        self._published = published
        self._token = token
        self._wanted_port = port
        self._runner: web.AppRunner | None = None
        self.port = port

    async def start(self) -> None:
        """Listen on all addresses of the pod."""
        app = web.Application()
        app.router.add_get(contract.STATE_PATH, self._state)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, None, self._wanted_port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close the port and all connections."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _state(self, request: web.Request) -> web.Response:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            return _error(401, "send the job's control token as Authorization: Bearer TOKEN")
        try:
            after = int(request.query.get("after", "-1"))
            wait_s = min(MAX_WAIT_SECONDS, max(0.0, float(request.query.get("waitSeconds", "0"))))
        except ValueError:
            return _error(400, "after and waitSeconds must be numbers")
        state = await self._published.after(after, wait_s)
        return web.Response(body=msgspec.json.encode(state), content_type="application/json")


def _error(status: int, message: str) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode({"error": message}), content_type="application/json")
