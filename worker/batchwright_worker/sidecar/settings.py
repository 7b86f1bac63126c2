"""What the sidecar is started with: its settings, and what stands in the files that they name."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from batchwright_worker.api.messages import LoadTableRow
from batchwright_worker.dispatch_log.recorder import DEFAULT_BYTES
from batchwright_worker.protocol.tls import Certificates, TlsFiles

_LOG = logging.getLogger(__name__)


class SidecarFailed(Exception):  # noqa: N818
    """It cannot start; the message says what to change."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The sidecar's settings, named as on the command line."""

    deployment: Path
    http_port: int
    grpc_port: int
    control_port: int
    host: str
    ipc_dir: Path
    token_file: Path
    scripts_dir: Path
    runtimes: int | None
    linger_seconds: float
    drain_seconds: float
    max_body_bytes: int
    header_seconds: float
    body_seconds: float
    parent: int
    ready_file: Path | None
    kind: str
    stuck_seconds: float = 30.0
    server_url: str = ""
    server_grpc: str = ""
    was_ready_file: Path | None = None
    """Is written when this pod is ready for the first time, and outlives the process: a `Readiness.was_ready`."""
    http_front_end: str = "own"
    dispatch_log: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    dispatch_log_bytes: int = DEFAULT_BYTES
    load_table: str = ""
    memory_bytes: int | None = None
    request_memory_bytes: int | None = None
    shared_memory: bool = False
    cache: Path | None = None
    """The node's cache of weights, whose counters /metrics shows; None: the pod has none."""
    server_name: str = "batchwright"


def certificates_of(settings: Settings) -> Certificates | None:
    """None without TLS. Raises SidecarFailed."""
    if settings.tls_cert is None or settings.tls_key is None:
        if settings.tls_cert or settings.tls_key or settings.tls_client_ca:
            raise SidecarFailed("TLS needs both a certificate and its key: give --tls-cert FILE and --tls-key FILE")
        return None
    files = TlsFiles(cert=settings.tls_cert, key=settings.tls_key, client_ca=settings.tls_client_ca)
    try:
        return Certificates(files)
    except (OSError, ValueError) as error:
        raise SidecarFailed(f"no TLS with {files.cert} and {files.key}: {error}; both are PEM files") from error


def load_table_of(text: str) -> list[tuple[int, float]]:
    """(batch size, images per second) of ENV_LOAD_TABLE's rows; what cannot be read is told and left out, since the
    first batches find a size as well."""
    if not text:
        return []
    try:
        rows = msgspec.json.decode(text, type=list[LoadTableRow])
    except msgspec.MsgspecError as error:
        _LOG.warning("the processor's load table is not used: %s", error)
        return []
    return [(row.batch_size, row.images_per_second) for row in rows if row.batch_size > 0]
