"""A collector of OpenTelemetry's traces and metrics: a real HTTP server that decodes what exporters send."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True)
class Received:
    """One span as it came over the wire; identifiers in hexadecimal digits."""

    name: str
    trace: str
    span: str
    parent: str
    links: tuple[str, ...]
    attributes: dict[str, Any]
    start: int
    end: int
    failed: bool
    kind: int
    service: str


class Collector:
    """Listens on `port` while it is entered; `until` waits for spans."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.metrics: dict[str, Any] = {}
        """The newest of each name, as protobuf has them."""
        self.services: set[str] = set()
        """Whose metrics they are."""
        self._arrived = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.port = self._server.server_port

    def __enter__(self) -> Collector:
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, _k: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def until(self, holds: Callable[[list[Received]], bool], seconds: float = 60) -> list[Received]:
        """The spans, once that holds."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: holds(self.spans), seconds), [each.name for each in self.spans]
            return list(self.spans)

    def until_metrics(self, *names: str, seconds: float = 60) -> dict[str, Any]:
        """The metrics, once these are there."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: self.metrics.keys() >= {*names}, seconds), sorted(self.metrics)
            return dict(self.metrics)

    def until_metric(self, name: str, holds: Callable[[Any], bool], seconds: float = 60) -> Any:
        """The metric, once that holds of it."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: name in self.metrics and holds(self.metrics[name]), seconds), name
            return self.metrics[name]

    def of_trace(self, trace: str, *names: str) -> dict[str, Received]:
        """The spans of one trace by name, once all of these names are there."""
        wanted = set(names)
        found = self.until(lambda spans: wanted <= {each.name for each in spans if each.trace == trace})
        return {each.name: each for each in found if each.trace == trace}

    def _take_metrics(self, message: ExportMetricsServiceRequest) -> None:
        for resource in message.resource_metrics:
            self.services.add(_service(resource))
            for scope in resource.scope_metrics:
                self.metrics |= {metric.name: metric for metric in scope.metrics}

    def _handler(collector) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - the handler has a self of its own
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                spans = _decoded(ExportTraceServiceRequest.FromString(body)) if self.path == "/v1/traces" else []
                if self.headers.get("Content-Encoding") or self.path not in ("/v1/traces", "/v1/metrics"):
                    raise AssertionError(f"{self.path} {self.headers}")
                with collector._arrived:
                    collector.spans += spans
                    if self.path == "/v1/metrics":
                        collector._take_metrics(ExportMetricsServiceRequest.FromString(body))
                    collector._arrived.notify_all()
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Silent."""

        return Handler


def _decoded(message: ExportTraceServiceRequest) -> list[Received]:
    found = []
    for resource in message.resource_spans:
        for scope in resource.scope_spans:
            found += [_received(span, _service(resource)) for span in scope.spans]
    return found


def _service(resource: Any) -> str:
    return next(each.value.string_value for each in resource.resource.attributes if each.key == "service.name")


def _received(span: Any, service: str) -> Received:
    values = {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}
    return Received(
        name=span.name,
        trace=span.trace_id.hex(),
        span=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        links=tuple(link.span_id.hex() for link in span.links),
        attributes=values,
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        failed=span.status.code == 2,
        kind=span.kind,
        service=service,
    )
