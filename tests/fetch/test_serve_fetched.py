"""`serve` with models as people have them: fetched over TLS, of several files, one of them broken."""

from __future__ import annotations

import functools
import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from click.testing import CliRunner

from batchwright_worker.artifacts.command import command as digest_command
from batchwright_worker.artifacts.digest import digest_of
from tests.backends.test_model_folders import FOLDER_SCRIPT, external_onnx
from tests.protocol.serving import Served, manifest, serving

SIGNATURE = {
    side: [{"name": tensor, "datatype": "FP32", "shape": [600]}] for side, tensor in (("inputs", "x"), ("outputs", "y"))
}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder and its address over TLS, which this process's children trust and may reach."""
    authority, root = trustme.CA(), tmp_path / "site"
    root.mkdir()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root)))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("BATCHWRIGHT_ALLOW_PRIVATE_ADDRESSES", "true")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield root, f"https://localhost:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def model(name: str, format_: str, uri: str, **parts: Any) -> dict[str, Any]:
    return {"name": name, "artifacts": [{"format": format_, "uri": uri, **parts}]}


def answer(served: Served, name: str) -> list[float]:
    """The first values of the model's answer to a row of ones."""
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 600], "data": [1.0] * 600}]}
    status, _, text = served.get(f"/v2/models/{name}/infer", json.dumps(body).encode())
    assert status == 200, text
    return list(json.loads(text)["outputs"][0]["data"][:3])


def test_models_of_several_files_and_a_broken_one_beside_them(site: tuple[Path, str], tmp_path: Path) -> None:
    root, url = site
    onnx = external_onnx(root / "external" / "net.onnx")
    external_onnx(root / "folder" / "model.onnx")
    (root / "folder" / "tokenizer").mkdir()
    (root / "folder" / "tokenizer" / "vocab.txt").write_text("words")
    python = root / "python"
    python.mkdir()
    (python / "model.py").write_text(FOLDER_SCRIPT)
    (python / "vocabulary.py").write_text("def factor(path):\n    return float(path.read_text())\n")
    (python / "vocab.txt").write_text("2.5")
    (root / "broken.onnx").write_bytes(b"not a model")
    for folder in (root / "folder", python):
        (folder / "SHA256SUMS").write_text(CliRunner().invoke(digest_command, ["--list", str(folder)]).output)
    models = [
        model("external", "onnx", f"{url}/external/net.onnx", sha256=digest_of(onnx, "onnx")),
        model("folder", "onnx", f"{url}/folder/", sha256=digest_of(root / "folder", "onnx")),
        model("python", "python", f"{url}/python/", script={"file": "model.py"}) | SIGNATURE,
        model("broken", "onnx", f"{url}/broken.onnx"),
        model("image", "onnx", "oci://registry.example.org/net:1/folder/", sha256=digest_of(root / "folder", "onnx")),
    ]
    mounted = f"registry.example.org/net:1={root}"  # emulated: a kubelet mounts the image's files
    with serving(tmp_path, manifest("d", models, readiness="Any"), "--volume", mounted) as served:
        assert answer(served, "image") == answer(served, "folder")
        assert answer(served, "external") == answer(served, "folder")
        assert answer(served, "python") == [2.5, 2.5, 2.5]
        ready = {name: served.get(f"/v2/models/{name}/ready")[0] for name in ("external", "folder", "python", "broken")}
        assert ready == {"external": 200, "folder": 200, "python": 200, "broken": 503}
        assert served.get("/v2/health/ready")[0] == 200
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 600], "data": [1.0] * 600}]}
        status, _, text = served.get("/v2/models/broken/infer", json.dumps(body).encode())
        assert (status, b"no usable ONNX model" in text) == (503, True), text
        state = served.state()
        assert state["message"].startswith("broken: ")


def test_a_digest_that_is_wrong_is_told_before_anything_starts(site: tuple[Path, str], tmp_path: Path) -> None:
    root, url = site
    onnx = external_onnx(root / "net.onnx")
    for uri in (f"{url}/net.onnx", onnx.as_uri()):
        (tmp_path / "d.yaml").write_text(yaml.safe_dump_all(manifest("d", [model("m", "onnx", uri, sha256="0" * 64)])))
        command = [sys.executable, "-m", "batchwright_worker", "serve", "-f", str(tmp_path / "d.yaml")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, digest_of(onnx, "onnx") in done.stderr) == (1, True), done.stderr
    weights = tmp_path / "cache" / "batchwright" / "weights"
    assert not any(os.scandir(weights / "entries"))
    assert not any(os.scandir(weights / "staging"))
