"""HTTP calls to an external Open Inference Protocol server: health, metadata, repository, inference."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec

from batchwright_worker.inference.requests import Array
from batchwright_worker.oip.http_tensors import HEADER_LENGTH
from batchwright_worker.sidecar.runtimes.external.wire import (
    Columns,
    ServerRefusedError,
    binary_request,
    json_request,
    outputs_of,
)

_HEALTH_S: Final = 2.0
_KEEP_ALIVE_S: Final = 2.0
"""Below what servers allow (uvicorn: 5), so that a request never meets a connection that is just being closed."""
_JOINED_BYTES: Final = 1 << 20
"""Bodies up to this are joined; larger ones are written part by part, without a copy."""
_BINARY: Final = "binary_tensor_data"


class ServerGoneError(Exception):
    """No server answers there."""


class ExternalServerHttp:
    """One server; `url` has no path. Everything raises ServerGoneError or ServerRefusedError."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self.url = f"http://{self._host}:{self._port}"
        self._session: aiohttp.ClientSession | None = None
        self._binary: bool | None = None

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def live(self, *, slow: bool = False) -> bool:
        """Does it say that it is alive? `slow`: what to return where it takes the connection and does not respond soon
        (some servers do not while a batch runs)."""
        return await self._healthy("/v2/health/live", slow=slow)

    async def ready(self) -> bool:
        """Is it ready, with all its models?"""
        return await self._healthy("/v2/health/ready")

    async def model_ready(self, model: str, *, slow: bool = False) -> bool:
        """Is this model ready for requests? `slow` as in `live`."""
        return await self._healthy(f"{_model(model)}/ready", slow=slow)

    async def closed_by_server(self) -> None:
        """Returns when the server closes a connection that carries no request: at its death at the latest."""
        try:
            reader, writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            return
        try:
            with contextlib.suppress(OSError):
                await reader.read(1)
        finally:
            writer.close()

    async def metadata(self, model: str) -> bytes:
        """The body of `/v2/models/{model}`."""
        return (await self._request("GET", _model(model)))[0]

    async def load(self, model: str) -> None:
        """Repository API; servers without it refuse."""
        await self._request("POST", f"/v2/repository/models/{quote(model, safe='')}/load", b"{}")

    async def unload(self, model: str) -> None:
        """Repository API; servers without it refuse."""
        await self._request("POST", f"/v2/repository/models/{quote(model, safe='')}/unload", b"{}")

    async def infer(self, model: str, columns: Columns) -> dict[str, Array]:
        """One batch. Raises BatchFailed for what the server or JSON cannot say."""
        path = f"{_model(model)}/infer"
        if await self._takes_binary():
            header, tensors = binary_request(columns)
            body, header_length = await self._request("POST", path, header, tensors)
        else:
            body, header_length = await self._request("POST", path, json_request(columns))
        return outputs_of(body, header_length)

    async def _takes_binary(self) -> bool:
        """From the extensions in the server's metadata, requested once."""
        if self._binary is None:
            body, _ = await self._request("GET", "/v2")
            with contextlib.suppress(msgspec.MsgspecError, AttributeError, TypeError):
                self._binary = _BINARY in msgspec.json.decode(body).get("extensions", ())
            self._binary = bool(self._binary)
        return self._binary

    async def _healthy(self, path: str, *, slow: bool = False) -> bool:
        try:
            async with asyncio.timeout(_HEALTH_S):
                await self._request("GET", path)
        except ServerRefusedError:
            return False
        except TimeoutError:
            return slow
        return True

    async def _request(
        self, method: str, path: str, header: bytes = b"", tensors: Sequence[bytes | memoryview] | None = None
    ) -> tuple[bytes, int | None]:
        """Body, and the length of its JSON part where raw bytes follow it."""
        headers = {"accept-encoding": "identity", "content-type": "application/json"}
        data: Any = header or None
        if tensors is not None:
            headers |= {HEADER_LENGTH: str(len(header)), "content-type": "application/octet-stream"}
            size = len(header) + sum(len(each) for each in tensors)
            headers["content-length"] = str(size)
            data = b"".join([header, *tensors]) if size <= _JOINED_BYTES else _written([header, *tensors])
        try:
            async with self._opened().request(method, self.url + path, data=data, headers=headers) as response:
                body = await response.read()
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as error:
            raise ServerGoneError(f"{self.url}: {type(error).__name__}: {error}") from error
        if response.status >= 400:
            wait = response.headers.get("retry-after", "")
            wait_s = float(wait) if wait.isdigit() else None
            raise ServerRefusedError(response.status, _error_message(body), retry_after_s=wait_s)
        length = response.headers.get(HEADER_LENGTH, "")
        return body, int(length) if length.isdigit() else None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S)
            # no deadline: a batch may take as long as it takes, a dead server closes the connection
            self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout())
        return self._session


async def _written(parts: Sequence[bytes | memoryview]) -> AsyncIterator[bytes | memoryview]:
    for part in parts:
        yield part


def _model(model: str) -> str:
    return f"/v2/models/{quote(model, safe='')}"


def _error_message(body: bytes) -> str:
    """The error's text: `{"error": ...}` (the protocol), `{"detail": ...}` (FastAPI), or the beginning of the body."""
    with contextlib.suppress(msgspec.MsgspecError, AttributeError):
        decoded = msgspec.json.decode(body)
        return str(decoded.get("error") or decoded.get("detail") or decoded)
    return body[:200].decode(errors="replace")
