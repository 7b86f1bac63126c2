"""API servers and models that are away for a while, or for good: waited for, and told as what they are."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

import batchwright as bw

Answer = tuple[int, str]
NOBODY: Answer = (0, "")
"""The connection ends without an answer."""


def scoring() -> bw.Manifest:
    model = bw.Model(name="scorer", artifacts=(bw.Artifact(format="onnx", uri="pvc://models/scorer.onnx"),))
    return bw.model_deployment("scoring", bw.ModelDeploymentSpec(models=(model,)))


def stored(**conditions: str) -> str:
    told = [{"type": kind, "status": status, "reason": "Why", "message": "so"} for kind, status in conditions.items()]
    return json.dumps({
        "kind": "ModelDeployment", "metadata": {"name": "scoring", "generation": 1, "resourceVersion": "5"},
        "status": {"observedGeneration": 1, "conditions": told},
    })  # fmt: skip


def event(kind: str, body: str) -> str:
    return f'{{"type": "{kind}", "object": {body}}}\n'


@contextmanager
def answering(answers: list[Answer]) -> Iterator[int]:
    """The port of a server that gives these answers in turn, the last one for ever."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, body = answers.pop(0) if len(answers) > 1 else answers[0]
            if code:
                self.send_response(code)
                self.end_headers()
                self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., bw.Cluster]:
    monkeypatch.setattr("batchwright.cluster._PAUSE_S", 0.01)

    def at(port: int, context: str | None = None) -> bw.Cluster:
        document: dict[str, Any] = {
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "team"}}],
        }  # fmt: skip
        (tmp_path / "config").write_text(yaml.safe_dump(document))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        return bw.Cluster(context=context)

    return at


def test_an_api_server_that_restarts_is_waited_for(cluster: Callable[..., bw.Cluster]) -> None:
    expired = json.dumps({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})
    answers = [
        (503, "starting"), NOBODY, (200, stored(Reconciling="True")), (200, event("ERROR", expired)),
        (200, stored()), (200, event("MODIFIED", stored(Reconciling="True"))), (429, "later"),
        (200, stored(Ready="True")),
    ]  # fmt: skip
    seen: list[dict[str, Any]] = []
    with answering(answers) as port:
        found = cluster(port).wait(scoring(), timeout_s=60, progress=seen.append)
    assert found["status"]["conditions"][0]["type"] == "Ready"
    assert len(seen) == 4


def test_one_look_is_a_wait_too(cluster: Callable[..., bw.Cluster]) -> None:
    with answering([(200, stored(Ready="True"))]) as port:
        assert cluster(port).wait(scoring(), timeout_s=0)["kind"] == "ModelDeployment"
    with answering([(200, stored(Reconciling="True"))]) as port, pytest.raises(bw.NotReached, match="Why: not there"):
        cluster(port).wait(scoring(), timeout_s=0)


def test_what_is_not_there_or_goes_is_not_waited_for(cluster: Callable[..., bw.Cluster]) -> None:
    missing = (404, json.dumps({"kind": "Status", "code": 404, "details": {"name": "scoring"}}))
    with answering([missing]) as port, pytest.raises(bw.NotReached, match="namespace team has no ModelDeployment"):
        cluster(port).wait(scoring())
    deleted = [(200, stored()), (200, event("DELETED", stored())), missing]
    with answering(deleted) as port, pytest.raises(bw.NotReached) as gone:
        cluster(port).wait(scoring())
    assert gone.value.reason == "NotFound"


def test_an_api_server_that_stays_away_is_named(cluster: Callable[..., bw.Cluster]) -> None:
    with pytest.raises(bw.NotReached, match=r"Timeout: the API server does not answer: .*127\.0\.0\.1"):
        cluster(1).wait(scoring(), timeout_s=0.1)


def test_rights_that_are_missing_are_told_at_once(cluster: Callable[..., bw.Cluster]) -> None:
    from kubernetes.client import ApiException

    with answering([(403, "no")]) as port, pytest.raises(ApiException) as forbidden:
        cluster(port).wait(scoring())
    assert forbidden.value.status == 403


def test_a_context_that_is_not_there_is_named(cluster: Callable[..., bw.Cluster]) -> None:
    from kubernetes.config import ConfigException

    with pytest.raises(ConfigException, match="gone"):
        cluster(1, "gone")


def test_a_model_that_nobody_serves_is_a_failed_inference() -> None:
    with pytest.raises(bw.InferenceFailed, match="does not answer") as failed:
        bw.Endpoint("http://127.0.0.1:1", retries=0).metadata("m")
    assert failed.value.status == 0
