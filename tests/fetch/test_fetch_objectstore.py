"""Objects of the three stores, over HTTP as they speak it: from any offset, of one version, and whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer

from batchwright_worker.artifacts.names import SUMS
from batchwright_worker.fetch.artifact import WantedArtifact, fetch_artifact
from batchwright_worker.fetch.errors import FetchRefused, Interrupted
from batchwright_worker.fetch.policy import FetchPolicy
from batchwright_worker.fetch.source import CHUNK_BYTES, Store
from batchwright_worker.fetch.sources import store_of
from tests.fetch.stores import LOOPBACK, Files

BODY = bytes(range(256)) * (3 * CHUNK_BYTES // 256) + b"end"
KEY = "models/a b+ä%20#1.onnx"
SECRETS = {
    "s3": {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_ENDPOINT_URL": "{}"},
    "gs": {"STORAGE_EMULATOR_HOST": "{}"},
    "az": {"AZURE_STORAGE_ACCOUNT_NAME": "shop", "AZURE_STORAGE_ENDPOINT": "{}"},
}
every_store = pytest.mark.parametrize("scheme", list(SECRETS))


@dataclass
class Served:
    files: Files
    address: str
    target: Path

    def store(self, scheme: str, policy: FetchPolicy = LOOPBACK) -> Store:
        secret = {name: value.format(self.address) for name, value in SECRETS[scheme].items()}
        return store_of(f"{scheme}://bucket/{KEY}", policy, secret)

    async def fetch(self, scheme: str, key: str = KEY, max_bytes: int = 10**9) -> bytes:
        wanted = WantedArtifact(
            uri=f"{scheme}://bucket/{key}", format="python", target=self.target, max_bytes=max_bytes
        )
        await fetch_artifact(wanted, self.store(scheme), lambda _: None, base_wait_s=0.0)
        return self.target.read_bytes()


@pytest.fixture
async def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_REGION", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    files = Files({KEY: BODY})
    async with TestServer(files.app()) as server:
        yield Served(files, str(server.make_url("")).rstrip("/"), tmp_path / "d" / "x")


@every_store
async def test_a_key_with_any_signs_is_fetched_whole(scheme: str, served: Served) -> None:
    assert await served.fetch(scheme) == BODY


@pytest.mark.parametrize("offset", [0, 1, CHUNK_BYTES, len(BODY) - 1, len(BODY)])
async def test_a_transfer_starts_at_any_offset(offset: int, served: Served) -> None:
    source = served.store("s3").source(f"s3://bucket/{KEY}")
    async with source.open() as opened:
        version = opened.version
    async with source.open(offset, version) as opened:
        assert (opened.offset, opened.total_bytes) == (offset, len(BODY))
        assert b"".join([chunk async for chunk in opened.chunks]) == BODY[offset:]
    async with source.open(offset, "of another version") as opened:
        assert opened.offset == 0


@every_store
async def test_a_cut_transfer_goes_on(scheme: str, served: Served) -> None:
    served.files.cuts[KEY] = 2
    assert await served.fetch(scheme) == BODY


async def test_an_object_that_is_replaced_while_it_is_read_is_never_mixed(served: Served) -> None:
    gets = 0

    def replace(_name: str) -> None:
        nonlocal gets
        gets += 1
        if gets == 2:  # behind the look at its size
            served.files.content[KEY] = BODY[::-1]

    served.files.on_get = replace
    assert await served.fetch("s3") == BODY[::-1]


async def test_a_large_object_is_refused_before_it_is_read(served: Served) -> None:
    with pytest.raises(FetchRefused, match="maxBytes"):
        await served.fetch("s3", max_bytes=len(BODY) - 1)
    assert served.files.names("GET") == []


async def test_an_empty_object(served: Served) -> None:
    served.files.content["empty"] = b""
    assert await served.fetch("s3", "empty") == b""


async def test_objects_that_stand_for_folders_are_no_files(served: Served) -> None:
    served.files.content = {"m/": b"", "m/a": b"1", "m/sub/": b"", "m/empty": b"", f"m/{SUMS}": b"x"}
    found = await served.store("s3").files("s3://bucket/m/")
    assert [(file.name, file.uri, file.total_bytes) for file in found] == [
        ("a", "s3://bucket/m/a", 1),
        ("empty", "s3://bucket/m/empty", 0),
    ]


@every_store
async def test_what_is_not_there_is_named_with_its_bucket_and_a_remedy(scheme: str, served: Served) -> None:
    with pytest.raises(FetchRefused, match=r"bucket bucket has no object 'other'; correct the uri"):
        await served.fetch(scheme, "other")


@pytest.mark.parametrize("key", ["a//b", "a/./b", "../b", "/a"])
async def test_a_key_that_would_be_read_as_another_is_refused(key: str, served: Served) -> None:
    with pytest.raises(FetchRefused, match="keys are read as paths"):
        await served.fetch("s3", key)


@every_store
async def test_an_endpoint_is_held_to_the_policy(scheme: str, served: Served) -> None:
    policies = (FetchPolicy(allow_http=True), FetchPolicy(allow_private_addresses=True), FetchPolicy())
    for policy in policies:
        with pytest.raises(FetchRefused, match=r"private address|is not fetched"):
            async with served.store(scheme, policy).source(f"{scheme}://bucket/{KEY}").open():
                pass
    assert served.files.asked == []


async def test_a_store_that_is_not_there_may_come_back(served: Served) -> None:
    served.address = "http://127.0.0.1:1"
    with pytest.raises(Interrupted, match="bucket bucket, key 'models/"):
        async with served.store("s3").source(f"s3://bucket/{KEY}").open():
            pass
