"""Every way to an API server that a kubeconfig or a pod describes, against a TLS server and a proxy of its own."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from aiohttp import web
from kubernetes.aio.config import incluster_config

from batchwright_operator.errors import SettingsError, Unauthorized, Unavailable
from batchwright_operator.kube import credentials as module
from batchwright_operator.kube.client import ApiClient
from batchwright_operator.kube.credentials import Credentials, find_credentials
from batchwright_operator.kube.objects import POD, Raw


@dataclass
class Server:
    """A TLS server that says how it was asked; with `only` it refuses every other Authorization header."""

    ca: trustme.CA
    port: int = 0
    only: str | None = None
    server_names: list[str | None] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)

    async def respond(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        got = request.headers.get("Authorization")
        self.authorizations.append(got)
        if self.only is not None and got != self.only:
            return web.json_response({"kind": "Status", "reason": "Unauthorized", "message": "no"}, status=401)
        peer = request.transport.get_extra_info("peercert") or {}
        names = dict(pair for entry in peer.get("subject", ()) for pair in entry)
        return web.json_response({"authorization": got, "user": names.get("commonName"), "path": request.path})

    def named(self, _: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        self.server_names.append(name)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server(ca=trustme.CA())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.ca.issue_cert("127.0.0.1", "api.internal").configure_cert(context)
    server.ca.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.sni_callback = server.named  # type: ignore[assignment]
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.respond)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    server.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    yield server
    await runner.cleanup()


@pytest.fixture
def write(tmp_path: Path, server: Server) -> Callable[..., Path]:
    def write(user: Raw, cluster: Raw | None = None, name: str = "config") -> Path:
        """A kubeconfig of one context, `name`."""
        ca = base64.b64encode(server.ca.cert_pem.bytes()).decode()
        described: Raw = {"server": f"https://127.0.0.1:{server.port}/", "certificate-authority-data": ca}
        document = {
            "current-context": name,
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "clusters": [{"name": name, "cluster": described | (cluster or {})}],
            "users": [{"name": name, "user": user}],
        }
        path = tmp_path / name
        path.write_text(yaml.safe_dump(document))
        return path

    return write


async def find(kubeconfig: Path | None = None, context: str | None = None) -> Credentials:
    return await asyncio.to_thread(find_credentials, kubeconfig, context)


async def ask(credentials: Credentials) -> Raw:
    async with ApiClient(credentials) as client:
        return await client.get(POD, "n", "p")


async def test_a_token(write: Callable[..., Path]) -> None:
    got = await ask(await find(write({"token": "t"})))
    assert got == {"authorization": "Bearer t", "user": None, "path": "/api/v1/namespaces/n/pods/p"}


async def test_a_name_and_a_password(write: Callable[..., Path]) -> None:
    got = await ask(await find(write({"username": "u", "password": "p"})))
    assert got["authorization"] == "Basic " + base64.b64encode(b"u:p").decode()


@pytest.mark.parametrize("inline", [True, False])
async def test_a_client_certificate(write: Callable[..., Path], server: Server, tmp_path: Path, inline: bool) -> None:
    pair = server.ca.issue_cert("batchwright", common_name="the-operator")
    files = {"client-certificate": pair.cert_chain_pems[0].bytes(), "client-key": pair.private_key_pem.bytes()}
    user: dict[str, str] = {}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        # A relative path is next to the kubeconfig, as for kubectl.
        user |= {f"{name}-data": base64.b64encode(content).decode()} if inline else {name: name}
    assert (await ask(await find(write(user))))["user"] == "the-operator"


def plugin(tmp_path: Path, status: str) -> Raw:
    """An exec plugin that prints an ExecCredential of this status, an expression that may use `calls`."""
    script = tmp_path / "plugin.py"
    script.write_text(
        "import json, os, pathlib\n"
        f"counter = pathlib.Path({str(tmp_path / 'calls')!r})\n"
        "calls = int(counter.read_text()) + 1 if counter.exists() else 1\n"
        "counter.write_text(str(calls))\n"
        "info = json.loads(os.environ['KUBERNETES_EXEC_INFO'])\n"
        f"print(json.dumps({{'apiVersion': info['apiVersion'], 'kind': 'ExecCredential', 'status': {status}}}))\n"
    )
    version = "client.authentication.k8s.io/v1"
    return {"exec": {"apiVersion": version, "command": sys.executable, "args": [str(script)], "env": None}}


async def test_an_exec_plugin_runs_again_after_a_401(
    write: Callable[..., Path], server: Server, tmp_path: Path
) -> None:
    credentials = await find(write(plugin(tmp_path, "{'token': f't{calls}'}")))
    assert (await ask(credentials))["authorization"] == "Bearer t1"
    server.only = "Bearer t2"
    assert (await ask(credentials))["authorization"] == "Bearer t2"
    assert server.authorizations == ["Bearer t1", "Bearer t1", "Bearer t2"]


async def test_an_exec_plugin_may_give_a_certificate(
    write: Callable[..., Path], server: Server, tmp_path: Path
) -> None:
    pair = server.ca.issue_cert("batchwright", common_name="from-the-plugin")
    texts = (pair.cert_chain_pems[0].bytes().decode(), pair.private_key_pem.bytes().decode())
    status = f"{{'clientCertificateData': {texts[0]!r}, 'clientKeyData': {texts[1]!r}}}"
    assert (await ask(await find(write(plugin(tmp_path, status)))))["user"] == "from-the-plugin"


async def test_a_token_file_is_read_again_every_minute(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("one\n")
    credentials = await find(write({"tokenFile": "token"}))
    (tmp_path / "token").write_text("two\n")
    assert (await ask(credentials))["authorization"] == "Bearer one"
    monkeypatch.setattr(module, "REREAD_S", -1.0)
    assert (await ask(credentials))["authorization"] == "Bearer two"


@pytest.fixture
def pod(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of a pod with a service account; the file of its token."""
    token, ca = tmp_path / "pod-token", tmp_path / "pod-ca.crt"
    token.write_text("one")
    ca.write_bytes(server.ca.cert_pem.bytes())
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(ca))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    return token


async def test_the_token_of_a_pod_rotates(pod: Path, server: Server) -> None:
    credentials = await find()
    assert str((await ask(credentials))["authorization"]).lower() == "bearer one"
    await asyncio.to_thread(pod.write_text, "two")
    server.only = "bearer two"
    assert (await ask(credentials))["authorization"] == "bearer two"


async def test_a_named_kubeconfig_wins_in_a_pod(pod: Path, write: Callable[..., Path]) -> None:
    assert (await ask(await find(write({"token": "t"}))))["authorization"] == "Bearer t"


async def test_a_token_that_stays_refused_is_an_error(write: Callable[..., Path], server: Server) -> None:
    server.only = "Bearer another"
    with pytest.raises(Unauthorized):
        await ask(await find(write({"token": "t"})))
    assert server.authorizations == ["Bearer t", "Bearer t"]


async def test_another_name_of_the_server(write: Callable[..., Path], server: Server) -> None:
    await ask(await find(write({"token": "t"}, {"tls-server-name": "api.internal"})))
    assert server.server_names == ["api.internal"]
    with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
        await ask(await find(write({"token": "t"}, {"tls-server-name": "api.elsewhere"})))


async def test_an_unknown_authority_is_refused_unless_told_otherwise(write: Callable[..., Path]) -> None:
    other = base64.b64encode(trustme.CA().cert_pem.bytes()).decode()
    with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
        await ask(await find(write({"token": "t"}, {"certificate-authority-data": other})))
    await ask(await find(write({"token": "t"}, {"insecure-skip-tls-verify": True, "certificate-authority-data": ""})))


@contextlib.asynccontextmanager
async def proxy() -> AsyncIterator[tuple[int, list[list[str]]]]:
    """A CONNECT proxy: its port, and the heads of the requests to it."""
    heads: list[list[str]] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        heads.append(head)
        host, _, port = head[0].split()[1].rpartition(":")
        there, out = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(copy(reader, out), copy(there, writer))

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1], heads


async def test_a_proxy(write: Callable[..., Path], server: Server) -> None:
    async with proxy() as (port, heads):
        cluster = {"proxy-url": f"http://who:secret@127.0.0.1:{port}", "tls-server-name": "api.internal"}
        await ask(await find(write({"token": "t"}, cluster)))
    assert heads[0][0].startswith(f"CONNECT 127.0.0.1:{server.port} ")
    assert "Proxy-Authorization: Basic " + base64.b64encode(b"who:secret").decode() in heads[0]
    assert server.server_names == ["api.internal"]


async def test_proxies_of_the_environment_are_not_used(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    assert (await ask(await find(write({"token": "t"}))))["authorization"] == "Bearer t"


async def test_contexts_of_several_files(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write({"token": name}, name=name) for name in ("first", "second")]
    monkeypatch.setenv("KUBECONFIG", ":".join(str(path) for path in [Path("/nowhere"), *paths]))
    assert (await ask(await find()))["authorization"] == "Bearer first"
    assert (await ask(await find(context="second")))["authorization"] == "Bearer second"


@pytest.mark.parametrize(
    "content",
    [None, "", "{", "[]", "current-context: x", "{current-context: x, contexts: [], clusters: [], users: []}"],
)
async def test_a_kubeconfig_that_cannot_be_read(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match="give --kubeconfig and --context"):
        await find(path)


async def test_the_connections_of_a_session_are_limited(write: Callable[..., Path]) -> None:
    credentials = await find(write({"token": "t"}))
    limits: dict[int, Any] = {}
    for limit in (0, 7):
        async with credentials.session(limit=limit) as session:
            assert session.connector is not None
            limits[limit] = session.connector.limit
    assert limits == {0: 0, 7: 7}
