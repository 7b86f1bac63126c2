"""Buckets of s3://, gs:// and az:// by one library, obstore, and what its errors mean to a user."""

from __future__ import annotations

import os
import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from batchwright_worker.api.uris import split_uri
from batchwright_worker.fetch.errors import FetchError, FetchRefused, Interrupted
from batchwright_worker.fetch.policy import FetchPolicy
from batchwright_worker.fetch.store_options import StoreOptions, store_options

_CODE: Final = re.compile(r"<Code>(\w+)</Code>")
_ELSEWHERE: Final = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraint")
_REGION_HEADER: Final = "x-amz-bucket-region"


class NoSuchObject(FetchRefused):
    """Neither now nor later."""


class NotPermitted(FetchRefused):
    """To these credentials."""


@dataclass(frozen=True, slots=True)
class ObjectAddress:
    """SCHEME://BUCKET/KEY; the key letter by letter."""

    scheme: str
    bucket: str
    key: str

    @property
    def uri(self) -> str:
        """As users write it."""
        return f"{self.scheme}://{self.bucket}/{self.key}"


def address_of(uri: str) -> ObjectAddress:
    """Raises FetchRefused for a key that the library would take for another one."""
    parts = split_uri(uri)
    key = parts.rest
    if any(step in ("", ".", "..") for step in key.removesuffix("/").split("/")) and key:
        raise FetchRefused(
            f"{uri}: the key {key!r} in bucket {parts.host} has an empty part, or one that is . or ..: keys are read "
            "as paths here; give the object another key"
        )
    return ObjectAddress(parts.scheme, parts.host, key)


@dataclass(slots=True)
class Buckets:
    """Stores of one Secret, one per bucket, each made once; `secret` has the entries that secretRef describes."""

    policy: FetchPolicy
    secret: Mapping[str, str]
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    _stores: dict[tuple[str, str], Any] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def store(self, address: ObjectAddress) -> Any:
        """The bucket as obstore has it. Blocks while an endpoint's address or a bucket's region is asked for. Raises
        FetchRefused, Interrupted."""
        with self._lock:
            key = (address.scheme, address.bucket)
            if key not in self._stores:
                self._stores[key] = self._made(address)
            return self._stores[key]

    def _made(self, address: ObjectAddress) -> Any:
        from obstore.store import AzureStore, GCSStore, S3Store

        options = store_options(address.scheme, address.bucket, self.secret, self.environ)
        if options.endpoint:
            self._check_endpoint(options.endpoint)
        config = dict(options.config)
        if options.needs_region and (region := _region_of(address.bucket)):
            config["region"] = region
        kind = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[address.scheme]
        try:
            return kind(
                address.bucket,
                config=config,
                client_options={
                    "allow_http": self.policy.allow_http,
                    "connect_timeout": "20s",
                    "read_timeout": "60s",
                    "timeout": "7days",  # of a whole transfer, which may be long; `read_timeout` finds silent ones
                },
                retry_config={"max_retries": 2},
                **_provided(options),
            )
        except Exception as error:
            raise FetchRefused(f"{address.uri}: {_short(error)}; correct the Secret of secretRef") from error

    def _check_endpoint(self, url: str) -> None:
        """An endpoint of the user's own must be one that the policy allows, too."""
        host = self.policy.check_uri(f"{url.rstrip('/')}/x").hostname or ""
        try:
            check_host(self.policy, host)
        except OSError as error:
            raise Interrupted(f"{url}: host {host} has no address ({error})") from error


def check_host(policy: FetchPolicy, host: str) -> None:
    """Are all addresses that a host has now allowed? Blocking. Raises FetchRefused, OSError where it has none."""
    for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
        policy.check_address(host, str(entry[4][0]))


def _provided(options: StoreOptions) -> dict[str, Any]:
    """The library asks it for credentials, and looks nowhere else."""
    credential = options.credential
    return {} if credential is None else {"credential_provider": lambda: dict(credential)}


def _region_of(bucket: str) -> str:
    """Where a bucket of S3 is; S3 says so to everybody, whatever else it answers. Empty: not known."""
    request = urllib.request.Request(f"https://s3.amazonaws.com/{bucket}", method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310 - the scheme is ours
            return str(response.headers.get(_REGION_HEADER, ""))
    except urllib.error.HTTPError as error:
        return str(error.headers.get(_REGION_HEADER, ""))
    except OSError:
        return ""


def meaning(address: ObjectAddress, error: Exception) -> FetchError:
    """What an error of obstore means: what cannot be, with bucket, key and remedy, or what may go by."""
    if isinstance(error, FetchError):
        return error
    uri, bucket, text = address.uri, f"bucket {address.bucket}", _short(error)
    code = found[1] if (found := _CODE.search(str(error))) else ""
    refused = _absent(address, error, code) or _refused(address, error, code)
    return refused or Interrupted(f"{uri}: {bucket}, key {address.key!r}: {text}")


def _absent(address: ObjectAddress, error: Exception, code: str) -> FetchError | None:
    if code in ("NoSuchBucket", "ContainerNotFound"):
        return NoSuchObject(
            f"{address.uri}: there is no bucket {address.bucket} there; correct the uri, or the endpoint in the Secret"
        )
    if isinstance(error, FileNotFoundError):
        return NoSuchObject(
            f"{address.uri}: bucket {address.bucket} has no object {address.key!r}; correct the uri (a folder ends in "
            "/, keys are taken letter by letter)"
        )
    return None


def _refused(address: ObjectAddress, error: Exception, code: str) -> FetchError | None:
    from obstore.exceptions import InvalidPathError, PermissionDeniedError, UnauthenticatedError

    uri, bucket, text = address.uri, f"bucket {address.bucket}", _short(error)
    if isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError):
        why = f" ({code})" if code else ""
        return NotPermitted(
            f"{uri}: {bucket} does not give {address.key!r} to these credentials{why}; correct those in the Secret of "
            "secretRef (without one, requests are not signed), or let them read the object and list the bucket"
        )
    if code in _ELSEWHERE or "redirect" in text:
        return FetchRefused(
            f"{uri}: {bucket} is in another region; write it as AWS_REGION into the Secret of secretRef"
        )
    if "invalid path" in text:
        return FetchRefused(f"{uri}: {bucket} names an object whose key is no path: {text}; give it another key")
    if isinstance(error, InvalidPathError | ValueError):
        return FetchRefused(f"{uri}: {text}; correct the uri")
    return None


def _short(error: Exception) -> str:
    """Without the library's debugging output."""
    text = str(error).partition("\n\nDebug source")[0]
    return re.sub(r"\s+", " ", text).strip()[:500] or type(error).__name__
