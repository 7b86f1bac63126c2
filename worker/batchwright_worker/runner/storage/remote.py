"""Object stores and web servers as fsspec file systems, with the administrator's rules on hosts and addresses."""

from __future__ import annotations

import os
import socket
from typing import Any

from batchwright_worker.fetch.buckets import Buckets, address_of, check_host
from batchwright_worker.fetch.errors import FetchRefused, Interrupted
from batchwright_worker.fetch.policy import FetchPolicy, policy_of
from batchwright_worker.fetch.sources import read_secret
from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.storage.bucket_files import BucketFiles


def file_system(uri: str, scheme: str, secret_name: str | None) -> tuple[Any, str]:
    """The file system and the path in it, with the credentials of a mounted Secret. Raises StepFailed(InvalidUri)."""
    policy, secret = policy_of(os.environ), read_secret(secret_name)
    try:
        host = policy.check_uri(uri).hostname or ""
        if scheme in ("http", "https"):
            import fsspec

            _check_host(policy, host, uri)
            headers = {"Authorization": secret["authorization"]} if secret.get("authorization") else {}
            fs = fsspec.filesystem(scheme, skip_instance_cache=True, get_client=_client(policy, headers))
        else:
            address = address_of(uri)
            fs = BucketFiles(scheme, Buckets(policy, secret))
            fs.connect(address)
    except FetchRefused as error:
        raise StepFailed("InvalidUri", str(error)) from error
    except Interrupted as error:
        raise StepFailed("InputNotFound", str(error), permanent=False) from error
    return fs, fs._strip_protocol(uri)


def _check_host(policy: FetchPolicy, host: str, uri: str) -> None:
    """Says early what would fail when connecting. Raises FetchRefused, StepFailed(InputNotFound)."""
    try:
        check_host(policy, host)
    except OSError as error:
        message = f"{uri}: host {host} has no address ({error}): check the name"
        raise StepFailed("InputNotFound", message, permanent=False) from error


def _client(policy: FetchPolicy, headers: dict[str, str]) -> Any:
    """Makes the session of fsspec's web file system; every address is checked at the moment of connecting, whatever
    name, redirect or literal led to it."""
    import aiohttp

    def checked(address: Any) -> socket.socket:
        family, kind, protocol, _, target = address
        policy.check_address(str(target[0]), str(target[0]))
        return socket.socket(family, kind, protocol)

    async def make(**_: Any) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(socket_factory=checked)
        return aiohttp.ClientSession(connector=connector, headers=headers)

    return make
