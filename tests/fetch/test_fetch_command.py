"""The init container's command, as a process: over TLS, and from an S3-compatible store."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web
from aiohttp.test_utils import TestServer
from msgspec.structs import replace

from batchwright_worker.api.deployment import Artifact, ModelDeployment, parse_deployment
from batchwright_worker.api.names import is_mounted
from batchwright_worker.artifacts.digest import digest_of
from batchwright_worker.fetch import command as fetch_command
from batchwright_worker.fetch.artifact import WantedArtifact, fetch_artifact
from batchwright_worker.fetch.at_once import AT_ONCE
from batchwright_worker.fetch.command import artifacts_of
from batchwright_worker.fetch.errors import FetchRefused
from batchwright_worker.fetch.policy import FetchPolicy
from batchwright_worker.fetch.sources import read_secret, store_of

BODY = b"weights" * 100_000
LOOPBACK = {"BATCHWRIGHT_ALLOW_PRIVATE_ADDRESSES": "true"}


def deployment(*uris: str) -> dict[str, Any]:
    """A ModelDeployment with one model per URI."""
    models = [{"name": f"m{index}", "artifacts": [{"format": "onnx", "uri": uri}]} for index, uri in enumerate(uris)]
    return {"metadata": {"name": "d"}, "spec": {"models": models}}


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[str]:
    """URL of a file over HTTPS; the authority's certificate is in ca.pem."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)

    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(body=BODY)

    app = web.Application()
    app.router.add_get("/rec.onnx", answer)
    server = TestServer(app, scheme="https", host="localhost")
    await server.start_server(ssl=context)
    yield f"https://localhost:{server.port}/rec.onnx"
    await server.close()


async def run(tmp_path: Path, url: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command on a file that names `url`, in a process of its own; weights go below tmp_path."""
    file = tmp_path / "deployment.json"
    file.write_text(json.dumps(deployment(url)))
    start = (
        "import batchwright_worker.api.names as c, sys; c.WEIGHTS_DIR = sys.argv.pop(1);"
        "from batchwright_worker.__main__ import main; main()"
    )
    log = f"--termination-log={tmp_path / 'termination'}"
    command = [sys.executable, "-c", start, str(tmp_path / "weights"), "fetch", f"--deployment={file}", log]
    return await asyncio.to_thread(
        subprocess.run, command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


async def test_the_command_puts_files_where_runtimes_look(secure: str, tmp_path: Path) -> None:
    done = await run(tmp_path, secure, SSL_CERT_FILE=str(tmp_path / "ca.pem"), **LOOPBACK)
    assert done.returncode == 0, done.stderr
    (found,) = (tmp_path / "weights" / "fetched").glob("*/rec.onnx")
    assert found.read_bytes() == BODY
    assert str(len(BODY)) in done.stdout


async def test_a_failure_is_told_in_the_termination_message(secure: str, tmp_path: Path) -> None:
    done = await run(tmp_path, secure, SSL_CERT_FILE=str(tmp_path / "ca.pem"))
    assert done.returncode == 1
    assert "private address" in done.stderr
    assert "allowPrivateAddresses" in (tmp_path / "termination").read_text()


async def test_an_unknown_authority_is_refused_at_once(secure: str, tmp_path: Path) -> None:
    done = await run(tmp_path, secure, **LOOPBACK)
    assert done.returncode == 1
    assert "certificate is not trusted" in done.stderr


def parsed(raw: dict[str, Any]) -> ModelDeployment:
    return parse_deployment(raw)


def test_only_what_is_not_mounted_is_fetched_and_once() -> None:
    uris = ["pvc://c/x.onnx", "https://h/x.onnx", "s3://b/y.onnx", "https://h/x.onnx", "oci://h/m:1/x.onnx"]
    found = artifacts_of(parsed(deployment(*uris)), "cpu")
    assert [artifact.uri for artifact in found if not is_mounted(artifact.uri or "")] == [
        "https://h/x.onnx",
        "s3://b/y.onnx",
    ]
    assert len(found) == 4


def test_other_kinds_of_accelerators_are_left_out() -> None:
    assert artifacts_of(parsed(deployment("https://h/x.onnx")), "nvidia.com/gpu") == []


def test_a_secret_is_its_folder(tmp_path: Path) -> None:
    (tmp_path / "s3").mkdir()
    (tmp_path / "s3" / "AWS_ACCESS_KEY_ID").write_text("key\n")
    (tmp_path / "s3" / "..data").mkdir()
    assert read_secret("s3", tmp_path) == {"AWS_ACCESS_KEY_ID": "key"}
    assert read_secret(None, tmp_path) == {}


@pytest.fixture
async def store() -> AsyncIterator[str]:
    """Endpoint of a server that answers like S3 for one object."""

    async def answer(request: web.Request) -> web.Response:
        if request.path != "/bucket/rec.onnx":
            return web.Response(status=404)
        span = request.http_range
        body = BODY[span.start or 0 : span.stop]
        headers = {"ETag": '"1"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(len(BODY))})
        return web.Response(status=206 if "Range" in request.headers else 200, body=body, headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


def secret_of(endpoint: str) -> dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_ENDPOINT_URL": endpoint}


async def fetch_object(endpoint: str, uri: str, target: Path, policy: FetchPolicy) -> int:
    wanted = WantedArtifact(uri=uri, format="onnx", target=target, max_bytes=10**9)
    store = store_of(uri, policy, secret_of(endpoint))
    return (await fetch_artifact(wanted, store, lambda _: None, base_wait_s=0.0)).total_bytes


async def test_objects_come_from_the_secrets_endpoint(store: str, tmp_path: Path) -> None:
    policy = FetchPolicy(allow_private_addresses=True, allow_http=True)
    assert await fetch_object(store, "s3://bucket/rec.onnx", tmp_path / "d" / "rec.onnx", policy) == len(BODY)
    assert (tmp_path / "d" / "rec.onnx").read_bytes() == BODY


async def test_a_missing_object_is_refused(store: str, tmp_path: Path) -> None:
    policy = FetchPolicy(allow_private_addresses=True, allow_http=True)
    with pytest.raises(FetchRefused, match=r"bucket bucket has no object .other\.onnx."):
        await fetch_object(store, "s3://bucket/other.onnx", tmp_path / "d" / "rec.onnx", policy)


async def test_an_endpoint_within_the_cluster_must_be_allowed(store: str, tmp_path: Path) -> None:
    with pytest.raises(FetchRefused, match="private address"):
        await fetch_object(store, "s3://bucket/rec.onnx", tmp_path / "d" / "rec.onnx", FetchPolicy(allow_http=True))


async def test_many_artifacts_are_fetched_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    running, most = 0, 0

    async def fetch(artifact: Artifact, *_: object) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        if artifact.uri == "https://h/30":
            raise FetchRefused("no")

    monkeypatch.setattr(fetch_command, "_fetch", fetch)
    artifacts = artifacts_of(parsed(deployment(*(f"https://h/{number}" for number in range(60)))), "cpu")
    with pytest.raises(FetchRefused, match="no"):
        await fetch_command.fetch_all(artifacts, FetchPolicy(), 10)
    assert most == AT_ONCE


async def test_what_is_mounted_is_held_to_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchwright_worker.api.names.WEIGHTS_DIR", str(tmp_path))
    folder = tmp_path / "pvc" / "models" / "ranker"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"m")
    good = Artifact(format="onnx", uri="pvc://models/ranker/", sha256=digest_of(folder, "onnx"))
    await fetch_command.fetch_all([good], FetchPolicy(), 10)
    with pytest.raises(FetchRefused, match=f"its digest is {good.sha256}, artifacts.*sha256 says 0000"):
        await fetch_command.fetch_all([replace(good, sha256="0" * 64)], FetchPolicy(), 10)
    with pytest.raises(FetchRefused, match="cannot be told"):
        await fetch_command.fetch_all([replace(good, uri="pvc://models/none")], FetchPolicy(), 10)
