"""Downloads from real servers on the loopback that cut, change, redirect and lie."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer, TestServer

from batchwright_worker.fetch.artifact import WantedArtifact, fetch_artifact
from batchwright_worker.fetch.download import ATTEMPTS
from batchwright_worker.fetch.errors import FetchError, FetchRefused, Interrupted
from batchwright_worker.fetch.policy import FetchPolicy
from batchwright_worker.fetch.sources import store_of

LOOPBACK = FetchPolicy(allow_private_addresses=True, allow_http=True)
BODY = random.Random(1).randbytes(3_000_000)
DIGEST = hashlib.sha256(BODY).hexdigest()


class FileServer:
    """Serves one file with ranges and an ETag; `cuts` transfers end early; requests are kept."""

    def __init__(self) -> None:
        self.body = BODY
        self.tag = '"1"'
        self.cuts = 0
        self.cut_after = 1_000_000
        self.statuses: list[int] = []
        self.retry_after = "0"
        self.redirect = ""
        self.chunked = False
        self.requests: list[web.BaseRequest] = []
        self.sent = 0

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(request)
        if self.redirect and request.path == "/x.onnx":
            return web.Response(status=302, headers={"Location": self.redirect})
        if self.statuses:
            return web.Response(status=self.statuses.pop(0), headers={"Retry-After": self.retry_after})
        return await self._file(request)

    async def _file(self, request: web.BaseRequest) -> web.StreamResponse:
        wanted = request.headers.get("Range") if request.headers.get("If-Range") == self.tag else None
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        response = web.StreamResponse(status=206 if wanted else 200, headers={"ETag": self.tag})
        if wanted:
            response.headers["Content-Range"] = f"bytes {start}-{len(self.body) - 1}/{len(self.body)}"
        if self.chunked:
            response.enable_chunked_encoding()
        else:
            response.content_length = len(self.body) - start
        await response.prepare(request)
        await self._send(request, response, self.body[start:])
        return response

    async def _send(self, request: web.BaseRequest, response: web.StreamResponse, rest: bytes) -> None:
        cut = self.cuts > 0
        self.cuts -= cut
        part = rest[: self.cut_after] if cut else rest
        await response.write(part)
        self.sent += len(part)
        if cut:
            assert request.transport is not None
            request.transport.close()
        else:
            await response.write_eof()


@pytest.fixture
async def server() -> AsyncIterator[tuple[FileServer, str]]:
    """The server's state and the URL of its file."""
    files = FileServer()
    async with TestServer(app_of(files)) as running:
        yield files, str(running.make_url("/x.onnx"))


def app_of(files: FileServer) -> web.Application:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", files.answer)
    return app


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def fetch(
    url: str,
    target: Path,
    *,
    policy: FetchPolicy = LOOPBACK,
    sha256: str = DIGEST,
    max_bytes: int = 10**9,
    secret: str = "",
) -> int:
    wanted = WantedArtifact(uri=url, format="onnx", target=target, max_bytes=max_bytes, sha256=sha256)
    store = store_of(url, policy, {"authorization": secret})
    return (await fetch_artifact(wanted, store, lambda _: None, base_wait_s=0.0)).total_bytes


async def test_a_file_arrives_whole(server: tuple[FileServer, str], tmp_path: Path) -> None:
    target = tmp_path / "digest" / "x.onnx"
    assert await fetch(server[1], target) == len(BODY)
    assert target.read_bytes() == BODY
    assert entries(target.parent) == ["x.onnx"]


async def test_a_cut_transfer_goes_on_where_it_stopped(server: tuple[FileServer, str], tmp_path: Path) -> None:
    files, url = server
    files.cuts = 2
    await fetch(url, tmp_path / "d" / "x.onnx")
    assert (tmp_path / "d" / "x.onnx").read_bytes() == BODY
    assert len(files.requests) == 3
    assert files.sent == len(BODY)


async def test_a_file_that_changes_between_attempts_is_taken_anew(
    server: tuple[FileServer, str], tmp_path: Path
) -> None:
    files = server[0]
    files.cuts = 1
    old_answer = files.answer

    async def change(request: web.BaseRequest) -> web.StreamResponse:
        if files.requests:
            files.body, files.tag = BODY[::-1], '"2"'
        return await old_answer(request)

    files.answer = change  # type: ignore[method-assign]
    async with TestServer(app_of(files)) as running:
        await fetch(str(running.make_url("/x.onnx")), tmp_path / "d" / "x.onnx", sha256="")
    assert (tmp_path / "d" / "x.onnx").read_bytes() == BODY[::-1]


async def test_a_wrong_digest_leaves_nothing(server: tuple[FileServer, str], tmp_path: Path) -> None:
    with pytest.raises(FetchRefused, match=DIGEST):
        await fetch(server[1], tmp_path / "d" / "x.onnx", sha256="0" * 64)
    assert entries(tmp_path) == []


@pytest.mark.parametrize("chunked", [False, True], ids=["length told", "length unknown"])
async def test_a_file_above_its_limit_is_refused(chunked: bool, server: tuple[FileServer, str], tmp_path: Path) -> None:
    server[0].chunked = chunked
    with pytest.raises(FetchRefused, match="maxBytes"):
        await fetch(server[1], tmp_path / "d" / "x.onnx", max_bytes=1_500_000)
    assert not (tmp_path / "d" / "x.onnx").exists()
    assert len(server[0].requests) == 1


@pytest.mark.parametrize(("status", "words"), [(404, "correct artifacts"), (401, "secretRef"), (403, "do not suffice")])
async def test_a_final_answer_is_not_asked_again(
    status: int, words: str, server: tuple[FileServer, str], tmp_path: Path
) -> None:
    server[0].statuses = [status]
    with pytest.raises(FetchRefused, match=words):
        await fetch(server[1], tmp_path / "d" / "x.onnx")
    assert len(server[0].requests) == 1


async def test_a_busy_server_is_asked_again(server: tuple[FileServer, str], tmp_path: Path) -> None:
    server[0].statuses = [503, 429, 500]
    await fetch(server[1], tmp_path / "d" / "x.onnx")
    assert len(server[0].requests) == 4


async def test_the_attempts_end(server: tuple[FileServer, str], tmp_path: Path) -> None:
    server[0].statuses = [503] * 100
    with pytest.raises(Interrupted, match="status 503"):
        await fetch(server[1], tmp_path / "d" / "x.onnx")
    assert len(server[0].requests) == ATTEMPTS


async def test_a_file_that_is_there_is_not_fetched(server: tuple[FileServer, str], tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x.onnx").write_bytes(BODY)
    await fetch(server[1], tmp_path / "d" / "x.onnx")
    assert server[0].requests == []


async def test_a_file_of_another_version_is_replaced(server: tuple[FileServer, str], tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x.onnx").write_bytes(b"old")
    await fetch(server[1], tmp_path / "d" / "x.onnx")
    assert (tmp_path / "d" / "x.onnx").read_bytes() == BODY


async def test_redirects_are_followed(server: tuple[FileServer, str], tmp_path: Path) -> None:
    server[0].redirect = "/elsewhere.onnx"
    await fetch(server[1], tmp_path / "d" / "x.onnx")
    assert [request.path for request in server[0].requests] == ["/x.onnx", "/elsewhere.onnx"]


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("http://169.254.169.254/latest/meta-data", "never fetched from"),
        ("http://[fe80::1]/x", "never fetched from"),
        ("ftp://127.0.0.1/x", "scheme 'ftp'"),
        ("file:///etc/passwd", "scheme 'file'"),
        ("/x.onnx", "more than 5 redirects"),
    ],
)
async def test_redirects_are_checked(location: str, words: str, server: tuple[FileServer, str], tmp_path: Path) -> None:
    server[0].redirect = location
    with pytest.raises(FetchRefused) as refused:
        await fetch(server[1], tmp_path / "d" / "x.onnx")
    assert words in str(refused.value)


async def test_credentials_stay_with_their_host(server: tuple[FileServer, str], tmp_path: Path) -> None:
    files, url = server
    files.redirect = url.replace("127.0.0.1", "localhost").replace("/x.onnx", "/y.onnx")
    await fetch(url, tmp_path / "d" / "x.onnx", secret="Bearer secret")
    assert [request.headers.get("Authorization") for request in files.requests] == ["Bearer secret", None]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_private_hosts_are_not_reached(host: str, server: tuple[FileServer, str], tmp_path: Path) -> None:
    """Also by name: what a name resolves to is what counts."""
    url = server[1].replace("127.0.0.1", host)
    with pytest.raises(FetchRefused, match="private address"):
        await fetch(url, tmp_path / "d" / "x.onnx", policy=FetchPolicy(allow_http=True))
    assert server[0].requests == []


@pytest.mark.parametrize("status", [403, 404, 500])
async def test_signatures_of_redirects_are_not_told(
    status: int, server: tuple[FileServer, str], tmp_path: Path
) -> None:
    files, url = server
    files.redirect, files.statuses = "/y.onnx?X-Amz-Signature=deadbeef", [status] * ATTEMPTS
    with pytest.raises(FetchError) as failed:
        await fetch(f"{url}?token=hidden", tmp_path / "d" / "x.onnx")
    assert f"/y.onnx?..: status {status}" in str(failed.value)
    assert not [word for word in ("deadbeef", "hidden") if word in str(failed.value)]


@pytest.mark.parametrize("secret", ["Bearer a\nb", "Bearer caf\u00e9", "Bearer a\0"])
async def test_credentials_that_are_no_header_are_refused(
    secret: str, server: tuple[FileServer, str], tmp_path: Path
) -> None:
    with pytest.raises(FetchRefused, match="no text of a header") as refused:
        await fetch(server[1], tmp_path / "d" / "x.onnx", secret=secret)
    assert secret not in str(refused.value)
    assert server[0].requests == []


async def test_a_file_that_comes_compressed_against_our_word_is_whole(tmp_path: Path) -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        headers = {"Content-Encoding": "gzip", "ETag": '"1"'}
        return web.Response(body=gzip.compress(BODY), headers=headers)

    async with RawTestServer(answer) as running:
        await fetch(str(running.make_url("/x.onnx")), tmp_path / "d" / "x.onnx")
    assert (tmp_path / "d" / "x.onnx").read_bytes() == BODY


async def test_a_server_that_goes_on_too_far_leaves_no_hole(server: tuple[FileServer, str], tmp_path: Path) -> None:
    files, _ = server
    files.cuts = 1

    async def skip(request: web.BaseRequest) -> web.StreamResponse:
        if "Range" not in request.headers:
            return await files.answer(request)
        headers = {"ETag": files.tag, "Content-Range": f"bytes 2000000-{len(BODY) - 1}/{len(BODY)}"}
        return web.Response(status=206, body=BODY[2_000_000:], headers=headers)

    async with RawTestServer(skip) as running:
        with pytest.raises(Interrupted, match="behind the end of what has arrived"):
            await fetch(str(running.make_url("/x.onnx")), tmp_path / "d" / "x.onnx", sha256="")
    assert not (tmp_path / "d").exists()


async def test_a_file_whose_end_is_not_told_needs_a_digest(tmp_path: Path) -> None:
    """A server that closes the connection after it, or in the middle of it: who could tell?"""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + BODY)
            await writer.drain()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x.onnx"
        await fetch(url, tmp_path / "a" / "x.onnx")
        with pytest.raises(FetchRefused, match=r"write its digest as artifacts\[\].sha256"):
            await fetch(url, tmp_path / "b" / "x.onnx", sha256="")
    assert (tmp_path / "a" / "x.onnx").read_bytes() == BODY
    assert not (tmp_path / "b").exists()
