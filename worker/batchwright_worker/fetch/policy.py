"""Where artifacts may come from: schemes, hosts, addresses (pure)."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from batchwright_worker.fetch.errors import FetchRefused

ENV_ALLOWED_HOSTS = "BATCHWRIGHT_ALLOWED_HOSTS"
ENV_ALLOW_PRIVATE = "BATCHWRIGHT_ALLOW_PRIVATE_ADDRESSES"
ENV_ALLOW_HTTP = "BATCHWRIGHT_ALLOW_HTTP"
SCHEMES = ("https", "s3", "gs", "az", "hf", "models")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_METADATA = frozenset({ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("100.100.100.200")})
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchPolicy:
    """The administrator's rules. `allowed_hosts` empty: every host; `*.example.org` matches below example.org."""

    allowed_hosts: tuple[str, ...] = ()
    allow_private_addresses: bool = False
    allow_http: bool = False

    def check_uri(self, uri: str) -> SplitResult:
        """The parts of a URI that may be fetched. Raises FetchRefused."""
        parts = urlsplit(uri)
        schemes = (*SCHEMES, "http") if self.allow_http else SCHEMES
        if parts.scheme == "oci":
            raise FetchRefused(
                f"{uri}: an image is mounted by a cluster, and not fetched here; say where its files are, "
                "--volume IMAGE=FOLDER, or use https://, s3:// or gs://"
            )
        if parts.scheme not in schemes:
            raise FetchRefused(f"{uri}: scheme {parts.scheme!r} is not fetched; use one of {', '.join(schemes)}")
        if parts.scheme == "models":
            return parts  # it names no host; the registry's addresses are checked as they are asked
        if not parts.hostname or not parts.path.strip("/"):
            raise FetchRefused(f"{uri}: names no file; write {parts.scheme}://HOST/PATH")
        if (
            parts.scheme != "hf"
        ):  # there it is the owner of a model; the hub's own addresses are checked as they are asked
            self._check_host(uri, parts.hostname)
        return parts

    def _check_host(self, uri: str, host: str) -> None:
        if self.allowed_hosts and not any(_matches(host, pattern) for pattern in self.allowed_hosts):
            allowed = ", ".join(self.allowed_hosts)
            raise FetchRefused(
                f"{uri}: host {host} is not allowed (allowed: {allowed}); ask for it in the operator's allowedHosts"
            )

    def check_address(self, host: str, text: str) -> None:
        """Raises FetchRefused for an address of `host` that fetches must not reach."""
        address = _plain(ipaddress.ip_address(text.partition("%")[0]))
        if address.is_link_local or address in _METADATA or address.is_multicast or address.is_unspecified:
            raise FetchRefused(
                f"host {host} is {text}, a link-local, metadata or multicast address: never fetched from"
            )
        if not address.is_global and not self.allow_private_addresses:
            raise FetchRefused(
                f"host {host} is {text}, a private address; the administrator may allow these by the operator's "
                "setting allowPrivateAddresses"
            )


def policy_of(environ: Mapping[str, str]) -> FetchPolicy:
    """From the environment of the fetch container; host names separated by commas."""
    hosts = (host.strip().lower() for host in environ.get(ENV_ALLOWED_HOSTS, "").split(","))
    return FetchPolicy(
        allowed_hosts=tuple(host for host in hosts if host),
        allow_private_addresses=environ.get(ENV_ALLOW_PRIVATE) == "true",
        allow_http=environ.get(ENV_ALLOW_HTTP) == "true",
    )


def _matches(host: str, pattern: str) -> bool:
    host = host.lower().rstrip(".")
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def _plain(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
