"""What the log says of clients that TLS has refused: who, why, and what to do about it."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable
from typing import Final

SILENT_S: Final = 10.0
"""Further clients that are refused for the same reason are counted and told together: one that tries again and again
would fill the log."""
_LOG = logging.getLogger(__name__)
_REASONS: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate, and clients have to (clientAuth: Required)",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not accepted",
    "HTTP_REQUEST": "it spoke plain HTTP; this port speaks TLS, use https",
    "WRONG_VERSION_NUMBER": "it spoke no TLS; this port does",
    "UNSUPPORTED_PROTOCOL": "it spoke a version of TLS before 1.2",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not trust this server's certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not trust this server's certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not trust this server's certificate",
}


class Refusals:
    """Of one port."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[str, tuple[float, int]] = {}

    def tell(self, peer: str, error: OSError) -> None:
        """A handshake with this address has failed. Connections that only end (health checks of load balancers open
        and close them) are not told."""
        reason = reason_of(error)
        if reason is None:
            return
        now = self._clock()
        told, kept = self._since.get(reason, (float("-inf"), 0))
        if now - told < SILENT_S:
            self._since[reason] = (told, kept + 1)
            return
        self._since[reason] = (now, 0)
        more = f" (and {kept} more since this was last said)" if kept else ""
        _LOG.warning("refused a connection from %s: %s%s", peer, reason, more)


def reason_of(error: OSError) -> str | None:
    """What a failed handshake means; None where the client has only gone."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{_REASONS['CERTIFICATE_VERIFY_FAILED']}: {error.verify_message}"
    if not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError):
        return None
    return _REASONS.get(error.reason or "", str(error))
