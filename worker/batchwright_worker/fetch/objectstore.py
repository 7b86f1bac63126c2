"""Objects of s3:// and gs://, through fsspec (s3fs, gcsfs: the extra `objectstore`)."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from batchwright_worker.artifacts.names import SUMS, ArtifactError, checked_names
from batchwright_worker.fetch.errors import FetchError, FetchRefused, Interrupted
from batchwright_worker.fetch.policy import FetchPolicy
from batchwright_worker.fetch.source import CHUNK_BYTES, OpenedSource, RemoteFile


class ObjectStore:
    """The objects of one scheme, s3 or gs; `secret` has the entries that artifacts[].secretRef describes."""

    def __init__(self, scheme: str, policy: FetchPolicy, secret: Mapping[str, str]) -> None:
        self._scheme = scheme
        self._policy = policy
        self._secret = secret
        self._lock = threading.Lock()
        self._made: Any = None

    def source(self, uri: str) -> ObjectSource:
        """See Store."""
        return ObjectSource(uri, self.system)

    async def files(self, folder_uri: str) -> list[RemoteFile]:
        """See Store."""
        try:
            return await asyncio.to_thread(self._files, folder_uri)
        except FetchError:
            raise
        except Exception as error:
            raise _error_of(folder_uri, error) from error

    def _files(self, folder_uri: str) -> list[RemoteFile]:
        system = self.system()
        prefix = system._strip_protocol(folder_uri).rstrip("/") + "/"
        found = {
            str(path).removeprefix(prefix): info
            for path, info in system.find(prefix, detail=True).items()
            if info.get("type") != "directory" and not str(path).endswith("/")
        }
        try:
            names = [name for name in checked_names(found, folder_uri) if name != SUMS]
        except ArtifactError as error:
            raise FetchRefused(str(error)) from error
        return [
            RemoteFile(
                name=name,
                uri=f"{self._scheme}://{prefix}{name}",
                total_bytes=int(found[name]["size"]),
                version=_version(found[name]),
            )
            for name in names
        ]

    def system(self) -> Any:
        """The file system, made once. Raises FetchRefused."""
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def _make(self) -> Any:
        import fsspec

        try:
            # Listings are read once, and one of an earlier attempt may be out of date.
            return fsspec.filesystem(self._scheme, skip_instance_cache=True, use_listings_cache=False, **self.options())
        except ImportError as error:
            raise FetchRefused(
                f"{self._scheme}://: the worker image lacks the package for it; build it with "
                f"batchwright[worker,objectstore] ({error})"
            ) from error

    def options(self) -> dict[str, Any]:
        """Credentials and endpoint as the file system of fsspec takes them. Raises FetchRefused."""
        if self._scheme == "gs":
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


class ObjectSource:
    """One object; `system` makes or has the file system."""

    def __init__(self, uri: str, system: Callable[[], Any]) -> None:
        self._uri = uri
        self._system = system

    @asynccontextmanager
    async def open(self, offset: int = 0, version: str = "") -> AsyncIterator[OpenedSource]:
        """See FileSource."""
        try:
            system = await asyncio.to_thread(self._system)
            file = await asyncio.to_thread(system.open, self._uri, "rb", cache_type="none")
            with file:
                found = _version(_of_object(file.details))
                start = offset if found and found == version and offset <= file.size else 0
                file.seek(start)
                chunks = self._chunks(system, file, found)
                yield OpenedSource(offset=start, total_bytes=file.size, version=found, chunks=chunks)
        except FetchError:
            raise
        except Exception as error:
            raise _error_of(self._uri, error) from error

    async def _chunks(self, system: Any, file: Any, version: str) -> AsyncIterator[bytes]:
        """Each chunk is a request of its own, so the object may have been replaced in between: s3fs sees that, gcsfs
        does not."""
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES * 8):
            yield chunk
        if version != _version(await asyncio.to_thread(system.info, self._uri)):
            raise Interrupted(f"{self._uri}: the object was replaced while it was read")


def _of_object(info: Mapping[str, Any]) -> Mapping[str, Any]:
    """Raises IsADirectoryError for what only other objects' names begin with: s3fs opens it as a file without bytes."""
    if info.get("type") == "directory":
        raise IsADirectoryError
    return info


def _version(info: Mapping[str, Any]) -> str:
    """What fsspec's file systems tell versions by; empty if none does."""
    return str(next((info[name] for name in ("ETag", "etag", "generation") if info.get(name)), ""))


def _error_of(uri: str, error: Exception) -> FetchRefused | Interrupted:
    if isinstance(error, FileNotFoundError | IsADirectoryError):
        return FetchRefused(f"{uri}: there is no such object; correct artifacts[].uri (a folder ends in /)")
    if isinstance(error, PermissionError):
        return FetchRefused(f"{uri}: not permitted; correct the credentials in the Secret of artifacts[].secretRef")
    return Interrupted(f"{uri}: {error or type(error).__name__}")
