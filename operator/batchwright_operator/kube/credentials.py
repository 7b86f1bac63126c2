"""Credentials for the API server: the pod's service account, or a kubeconfig; read by kopf's login functions.

Tokens of service accounts are rotated, so they are read again every minute, and at once after a 401.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import kopf
import yaml

from batchwright_operator.errors import SettingsError

REREAD_S = 60.0

logger = logging.getLogger(__name__)


class Credentials:
    """The server's address and our identity. Requests of a `session()` always carry the current token."""

    def __init__(self, load: Callable[[], kopf.ConnectionInfo]) -> None:
        self._load = load
        self.info = load()
        self._read_at = time.monotonic()

    @property
    def server(self) -> str:
        """Address of the API server, without a trailing slash."""
        return self.info.server.rstrip("/")

    def refresh(self) -> None:
        """Read everything again."""
        self.info = self._load()
        self._read_at = time.monotonic()

    def ssl_context(self) -> ssl.SSLContext:
        """TLS with the server's CA and our client certificate, if we have one."""
        return self.info.as_ssl_context()

    def session(self, *, limit: int) -> aiohttp.ClientSession:
        """A session with at most `limit` connections (0: no limit)."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self.ssl_context(), limit=limit, ttl_dns_cache=60),
            headers={"User-Agent": "batchwright-operator", "Accept": "application/json"},
            middlewares=(self._authorize,),
            proxy=self.info.proxy_url,
        )

    async def _authorize(
        self,
        request: aiohttp.ClientRequest,
        handler: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]],
    ) -> aiohttp.ClientResponse:
        if time.monotonic() - self._read_at > REREAD_S:
            await asyncio.to_thread(self.refresh)
        request.headers.update(self.info.as_http_headers())
        return await handler(request)


def find_credentials(kubeconfig: Path | None = None, context: str | None = None) -> Credentials:
    """Credentials of a kubeconfig if one is named, of the pod's service account if there is one, else of the user's
    kubeconfig. Raises SettingsError when there is none."""
    named = kubeconfig is not None or context is not None
    if named:
        _select(kubeconfig, context)

    def load() -> kopf.ConnectionInfo:
        settings = kopf.OperatorSettings()
        info = None if named else kopf.login_with_service_account(settings=settings)
        info = info or kopf.login_with_kubeconfig(settings=settings)
        if info is None:
            raise kopf.LoginError("this is no pod with a service account, and there is no kubeconfig")
        if not (info.token or info.username or info.certificate_path or info.certificate_data):
            # A user with `exec` or `auth-provider`: the Kubernetes client knows these.
            info = kopf.login_via_client(settings=settings, logger=logger) or info
        return info

    try:
        return Credentials(load)
    except (kopf.LoginError, OSError, KeyError, yaml.YAMLError) as error:
        raise SettingsError(f"no access to a cluster: {error}; give --kubeconfig and --context") from error


def _select(kubeconfig: Path | None, context: str | None) -> None:
    """Makes the named file and context those that kopf's login reads; a file that only sets the context goes first."""
    default = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
    paths = [str(kubeconfig) if kubeconfig else default]
    if context:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as overlay:
            yaml.safe_dump({"current-context": context}, overlay)
        atexit.register(Path(overlay.name).unlink, missing_ok=True)
        paths.insert(0, overlay.name)
    os.environ["KUBECONFIG"] = os.pathsep.join(paths)
