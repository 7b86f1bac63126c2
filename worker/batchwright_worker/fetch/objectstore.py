"""Objects of s3:// and gs://, through fsspec (s3fs, gcsfs: the extra `objectstore`)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from batchwright_worker.fetch.errors import FetchError, FetchRefused, Interrupted
from batchwright_worker.fetch.policy import FetchPolicy
from batchwright_worker.fetch.source import CHUNK_BYTES, OpenedSource


class ObjectSource:
    """One object; `secret` has the entries that artifacts[].secretRef describes."""

    def __init__(self, uri: str, policy: FetchPolicy, secret: Mapping[str, str]) -> None:
        self._uri = uri
        self._policy = policy
        self._secret = secret

    @asynccontextmanager
    async def open(self, offset: int) -> AsyncIterator[OpenedSource]:
        """See Source."""
        try:
            system = await asyncio.to_thread(self._system)
            file = await asyncio.to_thread(system.open, self._uri, "rb", cache_type="none")
            with file:
                file.seek(offset)
                yield OpenedSource(offset=offset, total_bytes=file.size, chunks=_chunks(file))
        except FetchError:
            raise
        except Exception as error:
            raise _error_of(self._uri, error) from error

    def _system(self) -> Any:
        import fsspec

        scheme = urlsplit(self._uri).scheme
        try:
            return fsspec.filesystem(scheme, skip_instance_cache=True, **self.options(scheme))
        except ImportError as error:
            raise FetchRefused(
                f"{self._uri}: the worker image lacks the package for {scheme}://; build it with "
                f"batchwright[worker,objectstore] ({error})"
            ) from error

    def options(self, scheme: str) -> dict[str, Any]:
        """Credentials and endpoint as the file system of fsspec takes them. Raises FetchRefused."""
        if scheme == "gs":
            import json

            credentials = self._secret.get("credentials.json")
            return {"token": json.loads(credentials) if credentials else "anon"}
        key, secret = self._secret.get("AWS_ACCESS_KEY_ID"), self._secret.get("AWS_SECRET_ACCESS_KEY")
        if not key or not secret:
            return {"anon": True, **self._endpoint()}
        return {"key": key, "secret": secret, "token": self._secret.get("AWS_SESSION_TOKEN"), **self._endpoint()}

    def _endpoint(self) -> dict[str, Any]:
        """An endpoint of the user's own must be one that the policy allows, too."""
        url = self._secret.get("AWS_ENDPOINT_URL")
        if not url:
            return {}
        host = self._policy.check_uri(f"{url.rstrip('/')}/x").hostname or ""
        for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
            self._policy.check_address(host, str(found[4][0]))
        return {"endpoint_url": url}


async def _chunks(file: Any) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES * 8):
        yield chunk


def _error_of(uri: str, error: Exception) -> FetchRefused | Interrupted:
    if isinstance(error, FileNotFoundError):
        return FetchRefused(f"{uri}: there is no such object; correct artifacts[].uri")
    if isinstance(error, PermissionError):
        return FetchRefused(f"{uri}: not permitted; correct the credentials in the Secret of artifacts[].secretRef")
    return Interrupted(f"{uri}: {error or type(error).__name__}")
