"""An API server's answers without an API server, so that it may be gone, strange or hostile; it writes and watches
nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

Answer = Callable[[str, str], tuple[int, str, bytes]]
"""Method and path -> status, media type, body."""


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """The address of a server that answers so."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body at once

        def respond(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            code, kind, body = answer(self.command, self.path.partition("?")[0])
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = respond  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def config(folder: Path, server: str) -> Path:
    document = {
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
    }  # fmt: skip
    (folder / "config").write_text(yaml.safe_dump(document))
    return folder / "config"


EMPTY = ("persistentvolumes", "persistentvolumeclaims", "deployments", "replicasets", "configmaps", "services",
         "controllerrevisions", "poddisruptionbudgets", "networkpolicies")  # fmt: skip


def cluster(objects: list[dict[str, Any]]) -> Answer:
    """An API server that has these, and no operator."""
    plurals = {"Node": "nodes", "AcceleratorProfile": "acceleratorprofiles", "ModelDeployment": "modeldeployments",
               "Pod": "pods", "Event": "events", "InferenceJob": "inferencejobs"}  # fmt: skip

    def answer(_: str, path: str) -> tuple[int, str, bytes]:
        *_, last = path.split("/")
        for one in objects:
            one["metadata"].setdefault("uid", "u")
            one["metadata"]["resourceVersion"] = "7"
            if path.endswith(f"/{plurals[one['kind']]}/{one['metadata']['name']}"):
                return 200, "application/json", json.dumps(one).encode()
        if "leases/" in path or last not in (*plurals.values(), *EMPTY):
            missing = {"kind": "Status", "reason": "NotFound", "message": "not found", "details": {"name": last}}
            return 404, "application/json", json.dumps(missing).encode()
        items = [one for one in objects if plurals[one["kind"]] == last]
        return 200, "application/json", json.dumps({"metadata": {"resourceVersion": "7"}, "items": items}).encode()

    return answer
