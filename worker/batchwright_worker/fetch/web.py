"""Files over HTTPS: every address and every redirect is checked, and the checked address is the one connected to."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from batchwright_worker.artifacts.digest import parsed_lines
from batchwright_worker.artifacts.names import SUMS, ArtifactError
from batchwright_worker.fetch.addresses import within
from batchwright_worker.fetch.errors import FetchRefused, Interrupted
from batchwright_worker.fetch.policy import FetchPolicy
from batchwright_worker.fetch.source import CHUNK_BYTES, OpenedSource, RemoteFile

REDIRECTS = 5
TIMEOUT = aiohttp.ClientTimeout(total=None, connect=20, sock_connect=20, sock_read=60)
_LARGEST_INDEX = 8 << 20
ADVICE: Final[Mapping[int, str]] = {
    401: "name a Secret with the entry `authorization` in artifacts[].secretRef",
    403: "the credentials in artifacts[].secretRef do not suffice",
    404: "there is no such file; correct artifacts[].uri",
    410: "the file is gone; correct artifacts[].uri",
}
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


class CheckedResolver(AbstractResolver):
    """Resolves once and hands out only addresses that the policy allows, but for proxies: these say themselves what is
    reached by them."""

    def __init__(self, policy: FetchPolicy, proxies: Mapping[str, str]) -> None:
        self._policy = policy
        self._proxies = {(parts.hostname, parts.port) for each in proxies.values() if (parts := urlsplit(each))}
        self._inner = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if (host, port) not in self._proxies:
            for each in found:
                self._policy.check_address(host, each["host"])
        return found

    async def close(self) -> None:
        await self._inner.close()


class WebStore:
    """Files behind URLs; a folder has an index, `SHA256SUMS`, because HTTP has no listing."""

    def __init__(self, policy: FetchPolicy, *, authorization: str = "") -> None:
        self._policy = policy
        self._authorization = authorization

    def source(self, uri: str) -> WebSource:
        """See Store."""
        return WebSource(uri, self._policy, authorization=self._authorization)

    async def files(self, folder_uri: str) -> list[RemoteFile]:
        """See Store; each file with the digest that the index gives it."""
        url = within(folder_uri, SUMS)
        try:
            sums = parsed_lines((await self.source(url).read())[0].decode())
        except (FetchRefused, ArtifactError, UnicodeDecodeError) as error:
            raise FetchRefused(
                f"{folder_uri}: a folder over https:// needs the index {SUMS} in it, as "
                f"`batchwright-worker digest --list FOLDER` prints it ({error})"
            ) from error
        return [RemoteFile(name=name, uri=within(folder_uri, name), sha256=sha256) for name, sha256 in sums.items()]


class WebSource:
    """A file behind a URL; a resumed transfer is of the same version (If-Range) or starts again. `advice`: by status,
    what a refusal asks users to do here."""

    def __init__(
        self, url: str, policy: FetchPolicy, *, authorization: str = "", advice: Mapping[int, str] = ADVICE
    ) -> None:
        if not (authorization.isascii() and authorization.isprintable()):
            raise FetchRefused(
                f"{url}: the credentials of its Secret are no text of a header: a line break, or a letter "
                "that is none of ASCII; write them anew"
            )
        self._url = url
        self._advice = advice
        self._policy = policy
        self._authorization = authorization

    @asynccontextmanager
    async def open(self, offset: int = 0, version: str = "") -> AsyncIterator[OpenedSource]:
        """See FileSource."""
        async with self._answer(offset if version else 0, version) as response:
            yield _opened(response)

    async def read(self) -> tuple[bytes, str]:
        """The whole of an index, and where its next page is (empty for the last one). Raises FetchRefused,
        Interrupted."""
        text = bytearray()
        async with self._answer(0, "") as response:
            if not _end_is_told(response):
                raise FetchRefused(f"{self._url}: the server does not say where it ends: a part would look whole")
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                text += chunk
                if len(text) > _LARGEST_INDEX:
                    raise FetchRefused(f"{self._url}: larger than {_LARGEST_INDEX} bytes: no index of an artifact")
            following = response.links.get("next")
            return bytes(text), str(following["url"]) if following else ""

    @asynccontextmanager
    async def _answer(self, offset: int, version: str) -> AsyncIterator[aiohttp.ClientResponse]:
        proxies = getproxies_environment()
        connector = aiohttp.TCPConnector(resolver=CheckedResolver(self._policy, proxies))
        # The environment's proxies are chosen here, its ~/.netrc is nobody's.
        async with aiohttp.ClientSession(connector=connector, timeout=TIMEOUT, trust_env=False) as session:
            try:
                async with self._get(session, proxies, offset, version) as response:
                    yield response
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise _error_of(self._url, error) from error

    @asynccontextmanager
    async def _get(
        self, session: aiohttp.ClientSession, proxies: dict[str, str], offset: int, version: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer at the end of the redirects; credentials stay with the first host."""
        url = self._url
        for _ in range(REDIRECTS + 1):
            self._check(url)
            headers, proxy = self._headers(url, offset, version), _proxy_of(url, proxies)
            async with session.get(url, headers=headers, allow_redirects=False, proxy=proxy) as response:
                if response.status not in (301, 302, 303, 307, 308):
                    _check_status(url, response, self._advice)
                    yield response
                    return
                url = urljoin(url, response.headers.get("Location", ""))
        raise FetchRefused(f"{self._url}: more than {REDIRECTS} redirects")

    def _check(self, url: str) -> None:
        host = self._policy.check_uri(url).hostname or ""
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return
        self._policy.check_address(host, host)  # an address in the URL is never resolved

    def _headers(self, url: str, offset: int, version: str) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity"}
        first, now = urlsplit(self._url), urlsplit(url)
        if self._authorization and (now.scheme, now.netloc) == (first.scheme, first.netloc):
            headers["Authorization"] = self._authorization
        if offset:
            headers |= {"Range": f"bytes={offset}-", "If-Range": version}
        return headers


def _proxy_of(url: str, proxies: dict[str, str]) -> str | None:
    """The proxy that the environment wants for it: HTTPS_PROXY or HTTP_PROXY, but for hosts in NO_PROXY. Raises
    FetchRefused for one of another kind."""
    parts = urlsplit(url)
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    if urlsplit(proxy).scheme not in ("http", "https"):
        raise FetchRefused(f"{url}: the proxy {proxy} is none of HTTP; write http://HOST:PORT into HTTPS_PROXY")
    return proxy


def _opened(response: aiohttp.ClientResponse) -> OpenedSource:
    tag = response.headers.get("ETag", "")
    version = "" if tag.startswith("W/") else tag or response.headers.get("Last-Modified", "")
    length, offset = response.content_length, _range_start(response)
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        # Compressed against our word, and read as what it was: its length is another one, and it begins anew.
        length, version = None, ""
    return OpenedSource(
        offset=offset,
        total_bytes=None if length is None else offset + length,
        version=version,
        chunks=response.content.iter_chunked(CHUNK_BYTES),
        end_is_told=_end_is_told(response),
    )


def _end_is_told(response: aiohttp.ClientResponse) -> bool:
    """If it is not, the connection's end is that of the body, wherever it comes."""
    return response.content_length is not None or "Transfer-Encoding" in response.headers


def _range_start(response: aiohttp.ClientResponse) -> int:
    """First byte of a partial answer (`Content-Range: bytes 5-9/10`), 0 of a whole one."""
    if response.status != 206:
        return 0
    span = response.headers.get("Content-Range", "").removeprefix("bytes ")
    start = span.partition("-")[0]
    if not start.isdigit():
        raise Interrupted(f"{response.url}: an answer with status 206 and no usable Content-Range")
    return int(start)


def _check_status(url: str, response: aiohttp.ClientResponse, advices: Mapping[int, str]) -> None:
    status = response.status
    if status in (200, 206):
        return
    if status in _TRANSIENT or status == 416:
        after = response.headers.get("Retry-After", "")
        raise Interrupted(f"{url}: status {status}", retry_after_s=min(float(after), 60.0) if after.isdigit() else 0.0)
    advice = advices.get(status, "the server will not give this file")
    raise FetchRefused(f"{url}: status {status}: {advice}")


def _error_of(url: str, error: Exception) -> Interrupted | FetchRefused:
    """What a failure of aiohttp means; its cause may be the policy's refusal, raised inside the resolver."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, FetchRefused):
            return FetchRefused(f"{url}: {cause}")
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return FetchRefused(f"{url}: its certificate is not trusted: {error.certificate_error}")
    if isinstance(error, asyncio.TimeoutError):
        return Interrupted(f"{url}: no answer or no bytes in time")
    return Interrupted(f"{url}: {error or type(error).__name__}")
