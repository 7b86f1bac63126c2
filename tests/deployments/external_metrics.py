"""An adapter of external.metrics.k8s.io: the operator's gauges, as an HPA asks for them.

As much of prometheus-adapter or KEDA's metrics server as an HPA notices, registered as an APIService.
"""

from __future__ import annotations

import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from prometheus_client.parser import text_string_to_metric_families

from e2e.cluster import ControlPlane

GROUP = "external.metrics.k8s.io"
VERSION = f"{GROUP}/v1beta1"
NAME = "v1beta1.external.metrics.k8s.io"


def value_of(text: str, metric: str, labels: dict[str, str]) -> float | None:
    """The gauge with these labels in a Prometheus text; None without it."""
    samples = (each for family in text_string_to_metric_families(text) for each in family.samples)
    return next((each.value for each in samples if each.name == metric and labels.items() <= each.labels.items()), None)


@contextmanager
def adapter(plane: ControlPlane, scrape: Callable[[], str]) -> Iterator[None]:
    """Serves, is registered, and is asked by the API server when this is entered."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(_answer(self.path, scrape)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Silent."""

    pair = plane.authority.server("adapter", "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _register(plane, server.server_address[1])
    try:
        yield
    finally:
        plane.api.delete(f"/apis/apiregistration.k8s.io/v1/apiservices/{NAME}")
        server.shutdown()
        server.server_close()


def _register(plane: ControlPlane, port: int) -> None:
    service = {"metadata": {"name": "adapter"}, "spec": {"type": "ExternalName", "externalName": "localhost",
               "ports": [{"port": port}]}}  # fmt: skip
    plane.api.request("POST", "/api/v1/namespaces/default/services", service)
    spec = {
        "group": GROUP,
        "version": "v1beta1",
        "groupPriorityMinimum": 100,
        "versionPriority": 100,
        "insecureSkipTLSVerify": True,
        "service": {"namespace": "default", "name": "adapter", "port": port},
    }
    plane.api.request("POST", "/apis/apiregistration.k8s.io/v1/apiservices", {"metadata": {"name": NAME}, "spec": spec})


def _answer(path: str, scrape: Callable[[], str]) -> dict[str, Any]:
    url = urlsplit(path)
    found = re.fullmatch(rf"/apis/{VERSION}/namespaces/([^/]+)/([^/]+)", url.path)
    if found is None:
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": VERSION, "resources": []}
    namespace, metric = found.groups()
    selector = parse_qs(url.query).get("labelSelector", [""])[0]
    labels = dict(each.split("=", 1) for each in selector.split(",") if each)
    value = value_of(scrape(), metric, labels | {"namespace": namespace})
    items = [] if value is None else [
        {"metricName": metric, "metricLabels": labels, "timestamp": "2026-01-01T00:00:00Z",
         "value": f"{round(value * 1000)}m"}
    ]  # fmt: skip
    return {"kind": "ExternalMetricValueList", "apiVersion": VERSION, "metadata": {}, "items": items}
