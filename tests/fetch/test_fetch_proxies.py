"""Downloads through the proxy that the environment names, and past it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer

from batchwright_worker.fetch.errors import FetchRefused
from batchwright_worker.fetch.policy import FetchPolicy
from tests.fetch.test_fetch_download import BODY, LOOPBACK, fetch

OUTSIDE = FetchPolicy(allow_http=True)
"""No private addresses: what a proxy reaches is none of ours to know."""
ELSEWHERE = "http://models.invalid/x.onnx"


class Proxy:
    """Answers for every host; the addresses that it was asked for, and the header that lets in."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.authorizations: list[str | None] = []
        self.redirect = ""

    async def answer(self, request: web.BaseRequest) -> web.Response:
        self.asked.append(request.raw_path if "://" in request.raw_path else f"direct {request.raw_path}")
        self.authorizations.append(request.headers.get("Proxy-Authorization"))
        if self.redirect:
            return web.Response(status=302, headers={"Location": self.redirect})
        return web.Response(body=BODY)


@pytest.fixture
async def proxy(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Proxy, str]]:
    """The proxy, which the environment names by an address with a password, and its own address."""
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "ALL_PROXY", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
    state = Proxy()
    async with RawTestServer(state.answer) as running:
        url = str(running.make_url("/"))
        monkeypatch.setenv("HTTP_PROXY", url.replace("//127.0.0.1", "//who:secret@localhost"))
        monkeypatch.setenv("NO_PROXY", "inside.example,127.0.0.1")
        yield state, url


async def test_what_the_environment_says_goes_by_the_proxy(proxy: tuple[Proxy, str], tmp_path: Path) -> None:
    await fetch(ELSEWHERE, tmp_path / "d" / "x.onnx", policy=OUTSIDE)
    assert (tmp_path / "d" / "x.onnx").read_bytes() == BODY
    assert set(proxy[0].asked) == {ELSEWHERE}
    assert set(proxy[0].authorizations) == {"Basic d2hvOnNlY3JldA=="}


async def test_the_rest_goes_straight(proxy: tuple[Proxy, str], tmp_path: Path) -> None:
    await fetch(f"{proxy[1]}x.onnx", tmp_path / "d" / "x.onnx", policy=LOOPBACK)
    assert set(proxy[0].asked) == {"direct /x.onnx"}
    with pytest.raises(FetchRefused, match="private address"):
        await fetch(f"{proxy[1]}x.onnx", tmp_path / "e" / "x.onnx", policy=OUTSIDE)


@pytest.mark.parametrize("location", ["http://169.254.169.254/latest", "http://10.0.0.1/x.onnx", "ftp://h/x.onnx"])
async def test_a_proxy_changes_no_rule(location: str, proxy: tuple[Proxy, str], tmp_path: Path) -> None:
    proxy[0].redirect = location
    with pytest.raises(FetchRefused):
        await fetch(ELSEWHERE, tmp_path / "d" / "x.onnx", policy=OUTSIDE)
    with pytest.raises(FetchRefused, match="is not allowed"):
        await fetch(ELSEWHERE, tmp_path / "d" / "x.onnx", policy=FetchPolicy(allow_http=True, allowed_hosts=("h",)))
    assert set(proxy[0].asked) == {ELSEWHERE}


async def test_another_kind_of_proxy_is_refused_without_its_password(
    proxy: tuple[Proxy, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "socks5://who:secret@h:1080")
    with pytest.raises(FetchRefused, match="is none of HTTP") as refused:
        await fetch(ELSEWHERE, tmp_path / "d" / "x.onnx", policy=OUTSIDE)
    assert "secret" not in str(refused.value)
