"""The few API calls that the cluster makes for itself, on the standard library alone."""

import http.client
import json
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .certificates import KeyPair
from .errors import ApiError

Object = dict[str, Any]

_PATCH_TYPES = {
    "apply": "application/apply-patch+yaml",
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
}


class Api:
    """A client of one API server; each call is a connection of its own, so it is safe in threads."""

    def __init__(self, server_url: str, ca: Path, pair: KeyPair) -> None:
        """Speak to `server_url`, trusting `ca`, as the owner of `pair`."""
        self._address = urlsplit(server_url)
        self._tls = ssl.create_default_context(cafile=str(ca))
        self._tls.load_cert_chain(pair.certificate, pair.key)

    def request(self, method: str, path: str, body: Object | None = None, *, kind: str = "application/json") -> Object:
        """The parsed answer; ApiError for any status from 400 on, OSError if nobody answers."""
        host, port = self._address.hostname or "", self._address.port
        connection = http.client.HTTPSConnection(host, port, timeout=10, context=self._tls)
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, path, payload, {"Content-Type": kind, "Accept": "application/json"})
            answer = connection.getresponse()
            return _parsed(answer.status, answer.read())
        finally:
            connection.close()

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


def _parsed(status: int, raw: bytes) -> Object:
    try:
        answer = json.loads(raw)
    except ValueError:
        answer = {"message": raw.decode(errors="replace")}
    if status >= http.client.BAD_REQUEST:
        raise ApiError(status, answer.get("message", ""))
    return answer if isinstance(answer, dict) else {"value": answer}
