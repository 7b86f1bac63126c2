"""TLS of the inference ports: clients that verify, client certificates, and a certificate that changes under load."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
import trustme
from cryptography import x509

from batchwright_worker.protocol.http.messages import HttpRequest, HttpResponse
from batchwright_worker.protocol.http.server import HttpServer, bound
from batchwright_worker.protocol.limits import Limits
from batchwright_worker.protocol.tls import Certificates, TlsFiles
from batchwright_worker.protocol.tls_refusals import SILENT_S, Refusals
from tests.protocol.raw_http import infer_request, read_response
from tests.protocol.serving import Served, emulated_model, manifest, serving

BITS = [[1.0] + [0.0] * 7]


class Authority:
    """Certificates for 127.0.0.1, written as a mounted Secret has them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._signer = trustme.CA()
        self.root = folder / "ca.crt"
        self._signer.cert_pem.write_to_path(self.root)
        self.renew()

    def renew(self) -> int:
        """A new certificate in place of the old one; its serial number."""
        issued = self._signer.issue_cert("127.0.0.1", "localhost")
        for name, blob in (("tls.key", issued.private_key_pem), ("tls.crt", issued.cert_chain_pems[0])):
            new = self.folder / f"{name}.new"
            new.write_bytes(blob.bytes())
            new.replace(self.folder / name)
        return x509.load_pem_x509_certificate((self.folder / "tls.crt").read_bytes()).serial_number

    def files(self, **more: Path) -> TlsFiles:
        return TlsFiles(cert=self.folder / "tls.crt", key=self.folder / "tls.key", **more)

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.root))

    def options(self) -> tuple[str, str]:
        return f"--tls-cert={self.folder / 'tls.crt'}", f"--tls-key={self.folder / 'tls.key'}"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def secure(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    documents = manifest("secure", [emulated_model("m", 1)])
    with serving(tmp_path_factory.mktemp("secure"), documents, *authority.options()) as served:
        yield served


def connected(served: Served, context: ssl.SSLContext) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", served.http), timeout=60)
    return context.wrap_socket(plain, server_hostname="127.0.0.1")


def serial(connection: ssl.SSLSocket) -> int:
    found = connection.getpeercert(binary_form=True)
    assert found is not None
    return x509.load_der_x509_certificate(found).serial_number


def channel(served: Served, authority: Authority) -> grpc.Channel:
    credentials = grpc.ssl_channel_credentials(authority.root.read_bytes())
    return grpc.secure_channel(f"127.0.0.1:{served.grpc}", credentials)


def test_tritons_clients_verify_the_certificate(secure: Served, authority: Authority) -> None:
    rows = np.array(BITS, np.float32)
    by_http = triton_http.InferInput("x", [1, 8], "FP32")
    by_http.set_data_from_numpy(rows)
    context = authority.client
    with triton_http.InferenceServerClient(f"127.0.0.1:{secure.http}", ssl=True, ssl_context_factory=context) as client:
        assert client.infer("m", [by_http]).as_numpy("argmax").tolist() == [[0]]
    by_grpc = triton_grpc.InferInput("x", [1, 8], "FP32")
    by_grpc.set_data_from_numpy(rows)
    with triton_grpc.InferenceServerClient(
        f"127.0.0.1:{secure.grpc}", ssl=True, root_certificates=str(authority.root)
    ) as client:
        assert client.infer("m", [by_grpc]).as_numpy("argmax").tolist() == [[0]]


def test_who_speaks_no_tls_is_left_alone(secure: Served, authority: Authority) -> None:
    with socket.create_connection(("127.0.0.1", secure.http), timeout=60) as plain:
        plain.sendall(infer_request("m", BITS))
        with contextlib.suppress(ConnectionResetError):
            assert not plain.recv(4096).startswith(b"HTTP")
    with pytest.raises(ssl.SSLCertVerificationError):
        connected(secure, ssl.create_default_context())
    with connected(secure, authority.client()) as good:
        good.sendall(infer_request("m", BITS))
        assert read_response(good)[0] == 200


def test_old_protocols_are_not_spoken(authority: Authority) -> None:
    assert authority.files().context().minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_new_certificate_is_served_while_old_connections_go_on(secure: Served, authority: Authority) -> None:
    with connected(secure, authority.client()) as kept, channel(secure, authority) as long_lived:
        first, new, stop = serial(kept), authority.renew(), threading.Event()
        failures: list[BaseException] = []
        asking = threading.Thread(target=ask_on, args=(kept, stop, failures))
        asking.start()
        end = time.monotonic() + 60
        while (seen := fresh_serial(secure, authority)) == first:
            assert time.monotonic() < end
        assert seen == new != first
        stop.set()
        asking.join()
        assert failures == []
        grpc.channel_ready_future(long_lived).result(timeout=60)
    pem = ssl.get_server_certificate(("127.0.0.1", secure.grpc))
    assert x509.load_pem_x509_certificate(pem.encode()).serial_number == new


def fresh_serial(served: Served, authority: Authority) -> int:
    with connected(served, authority.client()) as fresh:
        return serial(fresh)


def ask_on(connection: ssl.SSLSocket, stop: threading.Event, failures: list[BaseException]) -> None:
    """Requests on one connection until `stop`."""
    try:
        while not stop.is_set():
            connection.sendall(infer_request("m", BITS))
            assert read_response(connection)[0] == 200
    except BaseException as error:
        failures.append(error)


def test_files_that_do_not_fit_leave_the_old_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificates = Certificates(authority.files())
    old, good = certificates.context, (tmp_path / "tls.key").read_bytes()
    authority.renew()
    (tmp_path / "tls.key").write_bytes(good)
    certificates.check()
    (tmp_path / "tls.crt").unlink()
    certificates.check()
    assert certificates.context is old
    authority.renew()
    certificates.check()
    new = certificates.context
    certificates.check()
    assert certificates.context is new is not old


async def test_the_files_are_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchwright_worker.protocol.tls.CHECK_S", 0.001)
    authority = Authority(tmp_path)
    certificates = Certificates(authority.files())
    old = certificates.context
    watching = asyncio.create_task(certificates.watch())
    authority.renew()
    await asyncio.to_thread(wait_for_another, certificates, old)
    watching.cancel()


def wait_for_another(certificates: Certificates, old: ssl.SSLContext) -> None:
    end = time.monotonic() + 60
    while certificates.context is old:
        assert time.monotonic() < end
        time.sleep(0.001)


class Client:
    """A client with a certificate by an authority of its own."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        folder.mkdir()
        self.own = Authority(folder)
        self._serving = authority

    def context(self) -> ssl.SSLContext:
        context = self._serving.client()
        context.load_cert_chain(self.own.folder / "tls.crt", self.own.folder / "tls.key")
        return context

    def credentials(self) -> grpc.ChannelCredentials:
        key, chain = ((self.own.folder / name).read_bytes() for name in ("tls.key", "tls.crt"))
        return grpc.ssl_channel_credentials(self._serving.root.read_bytes(), key, chain)

    def is_served(self, served: Served) -> tuple[str, bool]:
        """What HTTP says, and whether gRPC is spoken."""
        with grpc.secure_channel(f"127.0.0.1:{served.grpc}", self.credentials()) as made:
            return answered(served, self.context()), reached(made)


@pytest.mark.parametrize("front_end", ["own", "uvicorn"])
def test_client_certificates(tmp_path: Path, capfd: pytest.CaptureFixture[str], front_end: str) -> None:
    """Only clients that the client CA has signed are served, over both protocols; a new CA counts at once, and what
    probes ask needs no certificate."""
    authority = Authority(tmp_path)
    first, second = (Client(tmp_path / name, authority) for name in ("first", "second"))
    client_ca = tmp_path / "clients.crt"
    client_ca.write_bytes(first.own.root.read_bytes())
    documents = manifest("mutual", [emulated_model("m", 1)])
    options = (*authority.options(), f"--tls-client-ca={client_ca}", f"--http-front-end={front_end}")
    with serving(tmp_path, documents, *options) as served:
        assert first.is_served(served) == ("200", True)
        said, by_grpc = second.is_served(served)
        assert (said != "200", by_grpc) == (True, False)
        unknown = answered(served, authority.client())
        if front_end == "own":  # which alone tells the client and the log
            assert "CERTIFICATE_REQUIRED" in unknown
            assert "UNKNOWN_CA" in said
            log = capfd.readouterr().err
            assert "refused a connection from 127.0.0.1: it showed no certificate" in log
            assert "refused a connection from 127.0.0.1: its certificate is not accepted" in log
        (tmp_path / "new.crt").write_bytes(second.own.root.read_bytes())
        (tmp_path / "new.crt").replace(client_ca)
        end = time.monotonic() + 60
        while second.is_served(served) != ("200", True):
            assert time.monotonic() < end
        said, by_grpc = first.is_served(served)
        assert (said != "200", by_grpc) == (True, False)
        with urllib.request.urlopen(f"http://127.0.0.1:{served.control}/v2/health/ready") as probe:
            assert probe.status == 200


def answered(served: Served, context: ssl.SSLContext) -> str:
    """The status of an infer request, or why there is none: TLS 1.3 says no after the client's side is done."""
    try:
        with connected(served, context) as client:
            client.sendall(infer_request("m", BITS))
            return str(read_response(client)[0])
    except (IndexError, OSError) as error:  # it has only gone
        return str(error)


class Nothing:
    """An application that is never asked."""

    def handle(self, request: HttpRequest) -> None:
        raise AssertionError

    def with_common_headers(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        return response


async def test_a_handshake_that_hangs_does_not_keep_the_port_from_stopping(tmp_path: Path) -> None:
    listener = bound("127.0.0.1", 0)
    server = HttpServer(Nothing(), Limits(header_seconds=3600))
    serving_task = server.start(listener, Certificates(Authority(tmp_path).files()))
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    await asyncio.sleep(0.05)  # until it is accepted; it says nothing
    server.stop()
    await asyncio.wait_for(serving_task, 60)
    assert await reader.read() == b""
    writer.close()


def test_the_log_is_not_filled(caplog: pytest.LogCaptureFixture) -> None:
    """The same reason again is counted; connections that only end are not told at all."""
    now = 0.0
    refusals = Refusals(lambda: now)
    error = ssl.SSLError(1, "[SSL: PEER_DID_NOT_RETURN_A_CERTIFICATE] peer did not return a certificate")
    error.reason = "PEER_DID_NOT_RETURN_A_CERTIFICATE"
    for each in (error, error, error, ssl.SSLEOFError(8, "EOF"), ConnectionResetError()):
        refusals.tell("10.0.0.7", each)
    now = SILENT_S
    refusals.tell("10.0.0.8", error)
    first, second = caplog.messages
    assert first.startswith("refused a connection from 10.0.0.7: it showed no certificate")
    assert second.startswith("refused a connection from 10.0.0.8")
    assert second.endswith("(and 2 more since this was last said)")


def reached(made: grpc.Channel) -> bool:
    try:
        made.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=60)
    except grpc.RpcError:
        return False
    return True


@pytest.mark.parametrize("options", [("--tls-cert=CERT",), ("--tls-key=KEY",), ("--tls-cert=KEY", "--tls-key=CERT")])
def test_what_cannot_be_served_with_says_so(tmp_path: Path, options: tuple[str, ...]) -> None:
    authority = Authority(tmp_path)
    names = {"CERT": str(authority.folder / "tls.crt"), "KEY": str(authority.folder / "tls.key")}
    given = [f"{option.partition('=')[0]}={names[option.partition('=')[2]]}" for option in options]
    with (
        pytest.raises(AssertionError, match="serve said"),
        serving(tmp_path, manifest("no", [emulated_model("m", 1)]), *given),
    ):
        pass
