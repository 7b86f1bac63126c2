"""An admission webhook as somebody else runs it: an HTTPS server that says no, with any status that it likes."""

from __future__ import annotations

import json
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import trustme

from batchwright_operator.kube.objects import Raw

WORDS = "not on Mondays"
CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"


class _No(BaseHTTPRequestHandler):
    code = 403

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = {"code": self.code, "message": WORDS}
        answer = {"uid": review["request"]["uid"], "allowed": False, "status": status}
        body = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing to say."""


@contextmanager
def saying_no(code: int) -> Iterator[Raw]:
    """Its `clientConfig`."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("No", (_No,), {"code": code}))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield client_config(server.server_address[1], authority)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(60)


def client_config(port: int, authority: trustme.CA | None = None) -> Raw:
    """Of a server on this port; without an authority, of one that is not there."""
    trusted = (authority or trustme.CA()).cert_pem.bytes()
    return {"url": f"https://127.0.0.1:{port}/", "caBundle": b64encode(trusted).decode()}


def configuration(place: str, client: Raw) -> Raw:
    """It has a say in Deployments and Jobs of this namespace."""
    rule = {"apiGroups": ["apps", "batch"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
            "resources": ["deployments", "jobs"]}  # fmt: skip
    webhook = {
        "name": "mondays.example.org", "clientConfig": client, "rules": [rule], "failurePolicy": "Fail",
        "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 1,
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": place}},
    }  # fmt: skip
    return {"metadata": {"name": f"mondays-in-{place}"}, "webhooks": [webhook]}
