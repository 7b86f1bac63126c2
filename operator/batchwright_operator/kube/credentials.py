"""Credentials for the API server: the pod's service account, or a kubeconfig; read by the official client.

Tokens of service accounts are rotated, so they are read again every minute, and at once after a 401. The official
client takes half a second to import, so it is where a cluster is asked, and not where a plugin prints its help.
"""

from __future__ import annotations

import asyncio
import copy
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import aiohttp
import yaml

from batchwright_operator.errors import SettingsError

REREAD_S = 60.0

# The official loader checks little of what it reads: a kubeconfig of a wrong shape ends in any of the last four.
_UNREADABLE = (OSError, yaml.YAMLError, AttributeError, LookupError, TypeError, ValueError)


class Configuration(Protocol):
    """The part of the official client's `Configuration` that is read and set here."""

    host: str
    api_key: dict[str, str]
    """By security scheme; `BearerToken` is the whole value of the Authorization header."""
    tls_server_name: str | None
    proxy: str | None
    connection_pool_maxsize: int
    client_session_kwargs: dict[str, Any] | None


class Credentials:
    """The server's address and our identity. Requests of a `session()` always carry the current token."""

    def __init__(self, load: Callable[[], Coroutine[Any, Any, Configuration]]) -> None:
        self._load = load
        self.refresh()

    @property
    def server(self) -> str:
        """Address of the API server, without a trailing slash."""
        return self._configuration.host.rstrip("/")

    def refresh(self) -> None:
        """Read everything again; blocks, and needs a thread without an event loop. Raises SettingsError."""
        # Set before the reading: otherwise every request that is sent meanwhile would read too, and run a plugin.
        self._read_at = time.monotonic()
        from kubernetes.aio.config import ConfigException

        try:
            # In a loop of its own: the official loader is a coroutine, but it reads files and blocks meanwhile.
            self._configuration = asyncio.run(self._load())
        except (ConfigException, *_UNREADABLE) as error:
            raise SettingsError(f"no access to a cluster: {error}; give --kubeconfig and --context") from error

    def session(self, *, limit: int) -> aiohttp.ClientSession:
        """A session with at most `limit` connections (0: no limit)."""
        from kubernetes.aio.client.rest import RESTClientObject

        configuration = copy.copy(self._configuration)
        configuration.connection_pool_maxsize = limit
        configuration.client_session_kwargs = {
            "headers": {"User-Agent": "batchwright-operator", "Accept": "application/json"},
            "middlewares": (self._authorize,),
            "proxy": configuration.proxy,
            # The default would take proxies from the environment, and passwords from ~/.netrc.
            "trust_env": False,
        }
        # The session itself: `RESTClientObject.request` would encode bodies again, and kopf takes only a session.
        return cast(aiohttp.ClientSession, RESTClientObject(configuration)._create_pool_manager())

    async def _authorize(
        self,
        request: aiohttp.ClientRequest,
        handler: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]],
    ) -> aiohttp.ClientResponse:
        if time.monotonic() - self._read_at > REREAD_S:
            await asyncio.to_thread(self.refresh)
        if authorization := self._configuration.api_key.get("BearerToken"):
            request.headers["Authorization"] = authorization.strip()  # a token file may end with a newline
        request.server_hostname = self._configuration.tls_server_name
        return await handler(request)


def find_credentials(kubeconfig: Path | None = None, context: str | None = None) -> Credentials:
    """Credentials of a kubeconfig if one is named, of the pod's service account if there is one, else of the user's
    kubeconfig. Blocks, and needs a thread without an event loop. Raises SettingsError when there is none."""
    paths = _paths(kubeconfig)
    named = kubeconfig is not None or context is not None

    async def load() -> Configuration:
        from kubernetes.aio import client as official
        from kubernetes.aio import config as official_config

        configuration = official.Configuration()
        if not named and _in_pod():
            official_config.load_incluster_config(configuration, try_refresh_token=False)
        else:
            chosen = context or _current_context(paths)
            await official_config.load_kube_config(paths, chosen, configuration, persist_config=False)
        return cast(Configuration, configuration)

    return Credentials(load)


def _in_pod() -> bool:
    return _service_account().exists()


def _service_account() -> Path:
    """The file with the token of the pod that this runs in, whether there is one or not."""
    from kubernetes.aio.config import incluster_config

    return Path(incluster_config.SERVICE_TOKEN_FILENAME)


def _current_context(paths: str) -> str | None:
    """The context that kubectl takes: that of the first file that names one (the official loader: of the last)."""
    for document in _documents(paths):
        if found := document.get("current-context"):
            return str(found)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What kubectl takes from a kubeconfig's context: its name, and the namespace of objects that have none."""

    name: str
    namespace: str


def context_of(kubeconfig: Path | None = None, context: str | None = None) -> Context:
    """The context that `find_credentials` takes for the same arguments. Raises SettingsError for an unreadable file."""
    try:
        if kubeconfig is None and context is None and _in_pod():
            return Context(name="in-cluster", namespace=_service_account().with_name("namespace").read_text().strip())
        paths = _paths(kubeconfig)
        name = context or _current_context(paths) or ""
        for document in _documents(paths):
            for each in document.get("contexts") or ():
                if each.get("name") == name:
                    return Context(name=name, namespace=str((each.get("context") or {}).get("namespace") or "default"))
    except _UNREADABLE as error:
        raise SettingsError(f"no access to a cluster: {error}; give --kubeconfig and --context") from error
    return Context(name=name, namespace="default")


def _paths(kubeconfig: Path | None) -> str:
    return str(kubeconfig) if kubeconfig else os.environ.get("KUBECONFIG") or "~/.kube/config"


def _documents(paths: str) -> Iterator[dict[str, Any]]:
    """What is in those of the files that exist."""
    for text in paths.split(os.pathsep):
        if text and (path := Path(text).expanduser()).exists():
            yield yaml.safe_load(path.read_text()) or {}
