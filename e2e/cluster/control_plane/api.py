"""The few API calls that the cluster makes for itself, on the standard library alone."""

import contextlib
import http.client
import json
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from e2e.cluster.control_plane.certificates import KeyPair
from e2e.cluster.machine.errors import ApiError

Object = dict[str, Any]

_PATCH_TYPES = {
    "apply": "application/apply-patch+yaml",
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
}


class Api:
    """A client of one API server, safe in threads: each call is a connection of its own.

    A call may thus be made at any time, whatever became of the server since the last one. For many objects
    at once there is `create_all`.
    """

    def __init__(self, server_url: str, ca: Path, pair: KeyPair) -> None:
        """Speak to `server_url`, trusting `ca`, as the owner of `pair`."""
        self._address = urlsplit(server_url)
        self._tls = ssl.create_default_context(cafile=str(ca))
        self._tls.load_cert_chain(pair.certificate, pair.key)

    def request(self, method: str, path: str, body: Object | None = None, *, kind: str = "application/json") -> Object:
        """The parsed answer; ApiError for any status from 400 on, OSError if nobody answers."""
        with contextlib.closing(self.connect()) as connection:
            return _exchange(connection, method, path, body, kind)

    def create_all(self, path: str, objects: Iterable[Object]) -> None:
        """Create objects in the collection at `path`, over one connection; those that exist are left alone."""
        with contextlib.closing(self.connect()) as connection:
            for each in objects:
                try:
                    _exchange(connection, "POST", path, each, "application/json")
                except ApiError as error:
                    if error.status != http.client.CONFLICT:
                        raise

    def patch_all(self, patches: Iterable[tuple[str, Object]]) -> None:
        """Merge patches of (path, body), over one connection."""
        with contextlib.closing(self.connect()) as connection:
            for path, body in patches:
                _exchange(connection, "PATCH", path, body, _PATCH_TYPES["merge"])

    def connect(self) -> http.client.HTTPSConnection:
        """A new connection, for what takes more than one call (a watch); the caller closes it."""
        host, port = self._address.hostname or "", self._address.port
        return http.client.HTTPSConnection(host, port, timeout=10, context=self._tls)

    def get(self, path: str) -> Object:
        """Read an object or a list."""
        return self.request("GET", path)

    def delete(self, path: str) -> Object:
        """Delete an object or a collection."""
        return self.request("DELETE", path)

    def patch(self, path: str, body: Object, *, how: str = "merge") -> Object:
        """Patch an object; `how` is apply, merge or strategic."""
        return self.request("PATCH", path, body, kind=_PATCH_TYPES[how])

    def apply(self, path: str, body: Object) -> Object:
        """Create or update the object at `path` by server-side apply."""
        return self.patch(f"{path}?fieldManager=batchwright-cluster&force=true", body, how="apply")

    def ready(self) -> bool:
        """Whether the API server says that it is ready."""
        try:
            self.request("GET", "/readyz")
        except (ApiError, OSError, http.client.HTTPException):
            return False
        return True

    def exists(self, path: str) -> bool:
        """Whether there is an object at `path` (no answer counts as no)."""
        try:
            self.get(path)
        except (ApiError, OSError, http.client.HTTPException):
            return False
        return True


def _exchange(
    connection: http.client.HTTPSConnection, method: str, path: str, body: Object | None, kind: str
) -> Object:
    payload = None if body is None else json.dumps(body)
    connection.request(method, path, payload, {"Content-Type": kind, "Accept": "application/json"})
    answer = connection.getresponse()
    return _parsed(answer.status, answer.read())


def _parsed(status: int, raw: bytes) -> Object:
    try:
        answer = json.loads(raw)
    except ValueError:
        answer = {"message": raw.decode(errors="replace")}
    if status >= http.client.BAD_REQUEST:
        raise ApiError(status, answer.get("message", ""))
    return answer if isinstance(answer, dict) else {"value": answer}
