"""A tracer and an exporter of metrics, configured by OpenTelemetry's own variables."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.metadata import version as package_version
from typing import TYPE_CHECKING, Any, Final, Literal

from batchwright_worker.api.names import ENV_NAMESPACE, ENV_NODE, ENV_POD

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

Signal = Literal["TRACES", "METRICS"]
_FLUSH_S: Final = 2.0
_NAMED: Final = {
    "k8s.pod.name": (ENV_POD, "POD_NAME"),
    "k8s.node.name": (ENV_NODE, "NODE_NAME"),
    "k8s.namespace.name": (ENV_NAMESPACE, "POD_NAMESPACE"),
}
"""Attributes of the process, by the variables of the pods that the operator makes, and of its own pod."""
_LOG = logging.getLogger(__name__)
ROOT_IDS: ContextVar[tuple[int, int] | None] = ContextVar("root_ids", default=None)
"""Trace and span of the root span that is started while this is set (`trace_ids`)."""


@dataclass(frozen=True, slots=True)
class Traces:
    """`stop` sends what is left; it may block for two seconds."""

    tracer: Tracer
    stop: Callable[[], None]


def is_wanted(environ: Mapping[str, str], signal: Signal) -> bool:
    """Is there an endpoint for it, and nothing that turns it off?"""
    if (
        environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
        or environ.get(f"OTEL_{signal}_EXPORTER", "otlp") != "otlp"
    ):
        return False
    return any(environ.get(name) for name in (f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"))


def traces_of(environ: Mapping[str, str], service: str) -> Traces | None:
    """None unless they are wanted, and the packages of the extra `otlp` are here."""
    if not is_wanted(environ, "TRACES") or not _is_http(environ, "TRACES"):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
    except ImportError as error:
        _missing("traces", error)
        return None

    class Ids(RandomIdGenerator):
        def generate_trace_id(self) -> int:
            return super().generate_trace_id() if (ids := ROOT_IDS.get()) is None else ids[0]

        def generate_span_id(self) -> int:
            return super().generate_span_id() if (ids := ROOT_IDS.get()) is None else ids[1]

    provider = TracerProvider(resource=resource_of(environ, service), id_generator=Ids())
    exporter = OTLPSpanExporter()
    provider.add_span_processor(BatchSpanProcessor(exporter))

    def stop() -> None:
        # Flushed in a thread of its own: the exporter tries again for ten seconds where nobody listens, and the pod
        # does not wait for that.
        flushing = threading.Thread(target=provider.force_flush, daemon=True)
        flushing.start()
        flushing.join(_FLUSH_S)
        exporter.shutdown()  # type: ignore[no-untyped-call]
        provider.shutdown()

    return Traces(provider.get_tracer("batchwright", package_version("batchwright")), stop)


def metrics_exporter_of(environ: Mapping[str, str]) -> Any | None:
    """OpenTelemetry's exporter of metrics; None as with `traces_of`."""
    if not is_wanted(environ, "METRICS") or not _is_http(environ, "METRICS"):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    except ImportError as error:
        _missing("metrics", error)
        return None
    return OTLPMetricExporter()


def resource_of(environ: Mapping[str, str], service: str) -> Any:
    """Of this process; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES lie over these."""
    from opentelemetry.sdk.resources import Resource

    named = (
        (name, next((environ[each] for each in variables if environ.get(each)), ""))
        for name, variables in _NAMED.items()
    )
    found = {name: value for name, value in named if value}
    return Resource.create(
        {
            "service.name": environ.get("OTEL_SERVICE_NAME") or service,
            "service.version": package_version("batchwright"),
            "process.pid": str(os.getpid()),
            **found,
        }
    )


def _is_http(environ: Mapping[str, str], signal: Signal) -> bool:
    names = (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = next((environ[name] for name in names if environ.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        _LOG.warning("no %s: OTLP is sent by http/protobuf, not by %s; name a receiver's port for it", signal, protocol)
    return protocol == "http/protobuf"


def _missing(what: str, error: ImportError) -> None:
    _LOG.warning("no %s although an endpoint is configured: %s; pip install batchwright[otlp]", what, error)
