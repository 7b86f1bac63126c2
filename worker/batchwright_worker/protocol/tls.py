"""TLS of the inference ports: a certificate from files, read again when they change.

A mounted Secret changes its files some time after the Secret has changed. Connections that are there keep their
certificate, new ones get the new one; files that do not fit together (one is written, the other is not yet) leave the
old one in force and are tried again.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

CHECK_S: Final = 2.0
"""How often the files are looked at: one `stat` each."""
_ALERT: Final = "batchwright_alert"
_LOG = logging.getLogger(__name__)
_Stamp = tuple[tuple[int, int, int], ...]


class _Handshake(ssl.SSLObject):
    """Leaves the alert of a handshake that fails with the error: event loops do not send it."""

    outgoing: ssl.MemoryBIO

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            vars(error)[_ALERT] = self.outgoing.read()
            raise


class _Context(ssl.SSLContext):
    sslobject_class = _Handshake

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        made = super().wrap_bio(incoming, outgoing, *args, **kwargs)
        cast(_Handshake, made).outgoing = outgoing
        return made


def alert_of(error: OSError) -> bytes:
    """What the client is still to be told, of a handshake that has failed; empty: nothing."""
    alert: bytes = vars(error).get(_ALERT, b"")
    return alert


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files; with `client_ca` only clients that it has signed are served."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Of a server, from the files as they are now. Raises OSError, ssl.SSLError where they do not fit together."""
        context = _Context(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self.cert, self.key)
        if self.client_ca is not None:
            context.load_verify_locations(self.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def stamp(self) -> _Stamp:
        """Changes when a file does. Raises OSError."""
        paths = [path for path in (self.cert, self.key, self.client_ca) if path is not None]
        return tuple((found.st_mtime_ns, found.st_ino, found.st_size) for found in (path.stat() for path in paths))


class Certificates:
    """The certificate in force: `context`, for each new connection."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises OSError, ssl.SSLError for files that cannot be served with."""
        self._files = files
        self._stamp = files.stamp()
        self.context = files.context()
        self._grpc = self._grpc_configuration()

    async def watch(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(CHECK_S)
            self.check()

    def check(self) -> None:
        """Take over what has changed."""
        try:
            stamp = self._files.stamp()
            if stamp == self._stamp:
                return
            context, grpc = self._files.context(), self._grpc_configuration()
        except (OSError, ValueError) as error:  # ssl's errors are OSErrors
            _LOG.warning("the certificate in %s stays as it was: %s", self._files.cert, error)
            return
        self._stamp, self.context, self._grpc = stamp, context, grpc
        _LOG.info("a new certificate from %s is in force", self._files.cert)

    def following(self) -> ssl.SSLContext:
        """For a server that keeps one context: each handshake goes on with what is in force then, client CA and all."""
        context = self._files.context()

        def go_on(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            connection.context = self.context

        context.sni_callback = go_on
        return context

    def grpc_credentials(self) -> Any:
        """Credentials of a gRPC server, which asks for the certificate in force at each handshake."""
        import grpc

        return grpc.dynamic_ssl_server_credentials(
            self._grpc, lambda: self._grpc, require_client_authentication=self._files.client_ca is not None
        )

    def _grpc_configuration(self) -> Any:
        import grpc

        client_ca = None if self._files.client_ca is None else self._files.client_ca.read_bytes()
        pair = (self._files.key.read_bytes(), self._files.cert.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], client_ca)
