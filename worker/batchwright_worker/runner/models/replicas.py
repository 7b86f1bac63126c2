"""The replicas of one ModelDeployment: all addresses of its headless Service, and one HTTP call to one of them.

What a call may raise, by what happens next:

    Unreachable     no answer: the replica is gone, hangs or stops; ask another
    ReplicaRefused  503, 429, 504: it is there and has no room now; come back after `retry_after_s`
    ReplicaRejected 4xx or 500: the rows (or one of them) are to blame
    NotTrusted      Unreachable, because its certificate is not the one that is expected
    NotAccepted     Unreachable, because it does not accept the certificate that we show, or that we show none
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp

from batchwright_worker.api.messages import TrustedServer
from batchwright_worker.api.names import HEADER_BATCH_SIZE, HEADER_EXPECTED_WAIT
from batchwright_worker.otlp.steps import carrier
from batchwright_worker.runner.errors import RunnerError, StepFailed
from batchwright_worker.runner.models.replica_load import ReplicaLoad, backoff_s
from batchwright_worker.runner.models.wire import HEADER_LENGTH

RESOLVE_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 120.0
_PIECE = 1 << 18
_BUSY: Final = (429, 502, 503, 504)


class Unreachable(RunnerError):  # noqa: N818
    """No answer."""


class NotTrusted(Unreachable):
    """The certificate is not signed by whom we trust, is not for the expected name, or has expired."""


class NotAccepted(Unreachable):
    """It asks for a certificate, and ours is none that it trusts."""


class ReplicaRefused(RunnerError):  # noqa: N818
    """No room now."""

    def __init__(self, message: str, *, retry_after_s: float | None, wait_ms: float | None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.wait_ms = wait_ms


class ReplicaRejected(RunnerError):  # noqa: N818
    """The rows are to blame; `status` is the HTTP status."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaResponse:
    """A good answer."""

    body: bytes
    header_length: int | None
    wait_ms: float | None
    batch_size: int | None


@dataclass(slots=True, kw_only=True)
class Replica:
    """One address; `free_at` is when it may be asked again after a failure or refusal (clock of time.monotonic)."""

    host: str
    port: int
    loads: dict[str, ReplicaLoad] = field(default_factory=dict)
    free_at: float = 0.0
    failures: int = 0
    answers: bool = True
    known_models: set[str] = field(default_factory=set)
    """Models of which it has told what they are made of, since it last failed to answer."""

    def load(self, model: str) -> ReplicaLoad:
        """Its load for one model."""
        return self.loads.setdefault(model, ReplicaLoad())

    @property
    def in_flight(self) -> int:
        """Rows of all models that are there."""
        return sum(load.in_flight for load in self.loads.values())

    def failed(self, now: float) -> None:
        """It did not answer: leave it alone for a while, longer each time."""
        self.failures += 1
        self.answers = False
        self.known_models.clear()  # what answers next at this address may be another process, with another model
        self.free_at = now + backoff_s(self.failures, share=random.random())  # noqa: S311 - jitter

    def worked(self) -> None:
        """It answered."""
        self.failures = 0
        self.answers = True
        self.free_at = 0.0


class ReplicaSet:
    """`open` first, `close` at the end. `on_change` is called when replicas came or went. With `tls` only replicas that
    show the certificate are spoken with."""

    def __init__(self, deployment: str, endpoint: str, tls: TrustedServer | None = None) -> None:
        self.deployment = deployment
        self._host, _, port = endpoint.rpartition(":")
        self._port = int(port)
        self.replicas: list[Replica] = []
        self.listeners: list[Callable[[], None]] = []
        self._session: aiohttp.ClientSession | None = None
        self._tls = tls
        self._verifying: dict[str, Any] = {}
        self._read: tuple[object, ...] = ()  # of the certificates' files, when they were read
        self._resolver: asyncio.Task[None] | None = None
        self._stale = asyncio.Event()

    @property
    def answers(self) -> bool:
        """Does any replica answer, as far as is known?"""
        return any(replica.answers for replica in self.replicas)

    async def open(self) -> None:
        """Resolve once, and again from time to time. Raises StepFailed(CertificateRefused) for a certificate of our own
        that cannot be read."""
        try:
            self._read_trusted()
        except OSError as error:  # ssl's errors too
            text = f"the certificate for deployment {self.deployment!r} cannot be used: {error}"
            remedy = "put PEM files into tls.crt, tls.key and ca.crt of the Secrets that its spec.tls names"
            raise StepFailed("CertificateRefused", f"{text}; {remedy}") from error
        self._session = aiohttp.ClientSession(
            headers=carrier(),  # all requests are the shard's (or the job's, on one machine)
            connector=aiohttp.TCPConnector(limit=0, socket_factory=_socket),
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=3.0),
            auto_decompress=False,
        )
        await self._resolve()
        self._resolver = asyncio.create_task(self._keep_resolving())

    async def close(self) -> None:
        """End what runs."""
        if self._resolver is not None:
            self._resolver.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._resolver
        if self._session is not None:
            await self._session.close()

    def refresh(self) -> None:
        """Look the addresses up soon: a replica did not answer."""
        self._stale.set()

    async def infer(
        self, replica: Replica, model: str, header: bytes, tensors: Sequence[bytes | memoryview]
    ) -> ReplicaResponse:
        """One request. Raises Unreachable, ReplicaRefused, ReplicaRejected."""
        size = len(header) + sum(len(tensor) for tensor in tensors)
        headers = {
            HEADER_LENGTH: str(len(header)),
            "Content-Length": str(size),
            "Content-Type": "application/octet-stream",
        }
        data: Any = b"".join((header, *tensors)) if size <= _PIECE else _pieces(header, tensors)
        try:
            return await self._call(replica, "POST", f"/v2/models/{model}/infer", headers=headers, data=data)
        except ReplicaRejected as error:
            if error.status != 404:
                raise
            # it was there when the metadata was read: unloaded, or a new pod that has not got it yet
            raise ReplicaRefused(str(error), retry_after_s=1.0, wait_ms=None) from error

    async def metadata(self, replica: Replica, model: str) -> ReplicaResponse:
        """The model's metadata. Raises as `infer`."""
        return await self._call(replica, "GET", f"/v2/models/{model}")

    async def config(self, replica: Replica, model: str) -> ReplicaResponse:
        """The model's configuration. Raises as `infer`."""
        return await self._call(replica, "GET", f"/v2/models/{model}/config")

    def _read_trusted(self) -> None:
        if self._tls is not None:
            self._read = self._stamp()
            ca_file = self._tls.ca_file if Path(self._tls.ca_file).exists() else None
            context = ssl.create_default_context(cafile=ca_file)
            if self._tls.cert_file:
                context.load_cert_chain(self._tls.cert_file, self._tls.key_file)
            self._verifying = {"ssl": context, "server_hostname": self._tls.server_name}

    def _renew_trusted(self) -> None:
        """Read the files again where they are others by now; those that do not fit together leave the old ones."""
        if self._tls is not None and self._stamp() != self._read:
            with contextlib.suppress(OSError):  # ssl's errors too: one is written, the other is not yet
                self._read_trusted()

    def _stamp(self) -> tuple[object, ...]:
        assert self._tls is not None
        files = [Path(name) for name in (self._tls.ca_file, self._tls.cert_file, self._tls.key_file) if name]
        return tuple((found.st_ino, found.st_mtime_ns) for found in (file.stat() for file in files if file.exists()))

    async def _call(self, replica: Replica, method: str, path: str, **request: Any) -> ReplicaResponse:
        assert self._session is not None
        url = f"{'https' if self._verifying else 'http'}://{_bracketed(replica.host)}:{replica.port}{path}"
        try:
            async with self._session.request(method, url, **self._verifying, **request) as response:
                body = await response.read()
                return _answer(response, body)
        except aiohttp.ClientConnectorCertificateError as error:
            replica.failed(time.monotonic())
            self._renew_trusted()
            raise NotTrusted(f"{replica.host}:{replica.port}: {error.certificate_error}") from error
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            replica.failed(time.monotonic())
            if self._tls is not None and _is_not_accepted(error):
                self._renew_trusted()
                raise NotAccepted(f"{replica.host}:{replica.port}: {error}") from error
            self.refresh()
            raise Unreachable(f"{replica.host}:{replica.port}: {type(error).__name__}: {error}") from error

    async def _keep_resolving(self) -> None:
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stale.wait(), RESOLVE_SECONDS)
                await asyncio.sleep(0.2 + 0.3 * random.random())  # noqa: S311 - many failures, one look-up
            self._stale.clear()
            self._renew_trusted()
            await self._resolve()

    async def _resolve(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except OSError:
            found = []  # the name has no address while no replica is ready
        hosts = sorted({str(entry[4][0]) for entry in found})
        known = {replica.host: replica for replica in self.replicas}
        kept = [known.get(host) or Replica(host=host, port=self._port) for host in hosts]
        changed = {replica.host for replica in kept} != set(known)
        self.replicas = kept
        if changed:
            for listener in self.listeners:
                listener()


def _is_not_accepted(error: BaseException) -> bool:
    """TLS alerts that servers send for a client's certificate: `TLSV13_ALERT_CERTIFICATE_REQUIRED`, `.._UNKNOWN_CA`,
    `.._BAD_CERTIFICATE`, `.._CERTIFICATE_EXPIRED`."""
    text = str(error).upper()
    return "ALERT" in text and ("CERTIFICATE" in text or "UNKNOWN_CA" in text)


def _answer(response: aiohttp.ClientResponse, body: bytes) -> ReplicaResponse:
    wait_ms = _number(response.headers.get(HEADER_EXPECTED_WAIT))
    if response.status == 200:
        batch = _number(response.headers.get(HEADER_BATCH_SIZE))
        length = _number(response.headers.get(HEADER_LENGTH))
        return ReplicaResponse(
            body=body,
            header_length=None if length is None else int(length),
            wait_ms=wait_ms,
            batch_size=None if batch is None else int(batch),
        )
    message = _message(body) or f"HTTP status {response.status}"
    if response.status in _BUSY:
        retry_after_s = _number(response.headers.get("Retry-After"))
        raise ReplicaRefused(message, retry_after_s=retry_after_s, wait_ms=wait_ms)
    raise ReplicaRejected(message, status=response.status)


def _message(body: bytes) -> str:
    import msgspec

    try:
        return str(msgspec.json.decode(body)["error"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        return body[:200].decode(errors="replace")


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


async def _pieces(header: bytes, tensors: Sequence[bytes | memoryview]) -> AsyncIterator[bytes | memoryview]:
    yield header
    for tensor in tensors:
        for start in range(0, len(tensor), _PIECE):
            yield tensor[start : start + _PIECE]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _socket(address: Any) -> socket.socket:
    """A socket that notices within some 15 s that the other side's machine is gone without a word."""
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 15_000)
    return sock
