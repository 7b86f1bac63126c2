"""hf://: one commit, all of its files, from a server of the hub's API that its own client reads as well."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

from batchwright_worker.api.uris import is_folder_uri
from batchwright_worker.artifacts.digest import digest_of
from batchwright_worker.fetch.artifact import FetchedArtifact, WantedArtifact, fetch_artifact
from batchwright_worker.fetch.errors import FetchRefused
from batchwright_worker.fetch.hub import HubAddress, hub_address
from batchwright_worker.fetch.policy import FetchPolicy
from batchwright_worker.fetch.sources import store_of
from e2e.model_hub import Hub
from tests.artifacts.test_companions import model_with
from tests.fetch.stores import LOOPBACK

OLD, NEW = "0" * 40, "1" * 40
WEIGHTS = bytes(range(256)) * 5000
BESIDE = ["b.bin", "c.bin", "d.bin", "e.bin"]
ONNX = model_with("model.onnx_data", *BESIDE).SerializeToString()
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b'{"a b": 1}',
    "onnx/model.onnx": ONNX,
    "onnx/model.onnx_data": WEIGHTS,
    "a b+ä%20.txt": b"odd",
} | {f"onnx/{name}": b"w" for name in BESIDE}


@dataclass
class Served:
    hub: Hub
    address: str
    root: Path

    @property
    def target(self) -> Path:
        return self.root / "d" / "m"

    async def fetch(self, uri: str, policy: FetchPolicy = LOOPBACK, **parts: Any) -> FetchedArtifact:
        wanted = {"format": "onnx", "target": self.target, "max_bytes": 10**9, **parts}
        secret = {"HF_ENDPOINT": self.address, "HF_TOKEN": "secret"}
        policy.check_uri(uri)
        store = store_of(uri, policy, secret)
        return await fetch_artifact(WantedArtifact(uri=uri, **wanted), store, lambda _: None, base_wait_s=0.0)

    def there(self) -> dict[str, bytes]:
        return {
            path.relative_to(self.target).as_posix(): path.read_bytes()
            for path in self.target.rglob("*")
            if path.is_file()
        }


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    repositories = {"org/model": {OLD: {"config.json": b"old"}, NEW: dict(FILES)}}
    hub = Hub(repositories, {"main": NEW, "v1": OLD, "refs/pr/1": OLD})
    async with TestServer(hub.app()) as server:
        yield Served(hub, str(server.make_url("")).rstrip("/"), tmp_path / "weights")


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("hf://org/model", HubAddress("org/model", "main", "")),
        ("hf://org/model@v1", HubAddress("org/model", "v1", "")),
        ("hf://org/model@refs%2Fpr%2F1/", HubAddress("org/model", "refs/pr/1", "")),
        ("hf://org/model@refs/pr/12", HubAddress("org/model", "refs/pr/12", "")),
        ("hf://org/model@refs/convert/parquet/onnx/", HubAddress("org/model", "refs/convert/parquet", "onnx/")),
        ("hf://org/model@refs/onnx/", HubAddress("org/model", "refs", "onnx/")),
        ("hf://org/model/a b%20/x@y", HubAddress("org/model", "main", "a b%20/x@y")),
    ],
)
def test_what_an_address_means(uri: str, address: HubAddress) -> None:
    assert hub_address(uri) == address
    assert is_folder_uri(uri) == (not address.path or address.path.endswith("/"))


@pytest.mark.parametrize(
    "uri", ["hf://org", "hf://org/", "hf:///model", "hf://org/@v1", "hf://org/m@", "hf://org/m@/a"]
)
def test_an_address_without_a_model_is_refused(uri: str) -> None:
    with pytest.raises(FetchRefused, match="write hf://ORG/MODEL"):
        hub_address(uri)


@pytest.mark.parametrize("path", ["../model", "org/..", "org/m/../x", "org/m@main/a/./b", "org/m//x", "org/m@v/../"])
def test_an_address_leads_nowhere_else(path: str) -> None:
    """The client of HTTP would go up by it, to another model."""
    with pytest.raises(FetchRefused, match="names nothing on the hub"):
        hub_address(f"hf://{path}")


@pytest.mark.parametrize("uri", ["hf://org/model", "hf://org/model@main/", f"hf://org/model@{NEW}"])
async def test_all_files_of_a_revision_come(uri: str, served: Served) -> None:
    fetched = await served.fetch(uri)
    assert served.there() == FILES
    assert (fetched.files, fetched.total_bytes) == (len(FILES), sum(map(len, FILES.values())))
    again = await served.fetch(uri, sha256=digest_of(served.target, "onnx"))
    assert again.already


@pytest.mark.parametrize("revision", ["v1", "refs%2Fpr%2F1"])
async def test_another_revision_has_its_own_files(revision: str, served: Served) -> None:
    await served.fetch(f"hf://org/model@{revision}")
    assert served.there() == {"config.json": b"old"}


async def test_a_folder_of_a_model(served: Served) -> None:
    await served.fetch("hf://org/model/onnx/")
    assert served.there() == {"model.onnx": ONNX, "model.onnx_data": WEIGHTS} | dict.fromkeys(BESIDE, b"w")


async def test_a_file_brings_those_that_it_names(served: Served) -> None:
    await served.fetch("hf://org/model@main/onnx/model.onnx", target=served.root / "d" / "model.onnx")
    assert (served.root / "d" / "model.onnx_data").read_bytes() == WEIGHTS


async def test_all_files_are_of_one_commit_though_the_branch_moves(served: Served) -> None:
    def moved() -> None:
        served.hub.branches["main"] = OLD

    asyncio.get_running_loop().call_later(0, moved)
    store = store_of("hf://org/model", LOOPBACK, {"HF_ENDPOINT": served.address})
    files = await store.files("hf://org/model")
    moved()
    async with store.source(files[0].uri).open() as opened:
        assert opened.total_bytes is not None
    assert len([path for path in served.hub.asked if "/revision/" in path]) == 1


async def test_a_cut_transfer_goes_on(served: Served) -> None:
    served.hub.cuts[hashlib.sha256(WEIGHTS).hexdigest()] = 2
    await served.fetch("hf://org/model")
    assert served.there() == FILES


async def test_a_private_model_needs_the_token(served: Served) -> None:
    served.hub.token = "secret"
    await served.fetch("hf://org/model@v1")
    served.hub.token = "another"
    with pytest.raises(FetchRefused, match="Secret with HF_TOKEN"):
        await served.fetch("hf://org/model", target=served.root / "other" / "m")


@pytest.mark.parametrize("uri", ["hf://org/other", "hf://org/model@v9", "hf://org/model/none/", "hf://org/model/none"])
async def test_what_is_not_there_is_refused(uri: str, served: Served) -> None:
    with pytest.raises(FetchRefused, match=r"is not there|there is nothing in this folder"):
        await served.fetch(uri)
    assert not served.target.exists()


async def test_weights_that_are_not_what_the_hub_says_are_refused(served: Served) -> None:
    served.hub.damaged.add(hashlib.sha256(WEIGHTS).hexdigest())
    with pytest.raises(FetchRefused, match="its SHA-256 is"):
        await served.fetch("hf://org/model")
    assert not served.target.exists()


async def test_the_hub_is_held_to_the_policy(served: Served) -> None:
    policies = [
        (FetchPolicy(allow_http=True), "private address"),
        (FetchPolicy(allow_private_addresses=True), "is not fetched"),
        (FetchPolicy(allow_private_addresses=True, allow_http=True, allowed_hosts=("hub.example",)), "not allowed"),
    ]
    for policy, words in policies:
        with pytest.raises(FetchRefused, match=words):
            await served.fetch("hf://org/model", policy)
    assert served.hub.asked == []


async def test_more_than_is_allowed_is_refused(served: Served) -> None:
    with pytest.raises(FetchRefused, match="maxBytes"):
        await served.fetch("hf://org/model", max_bytes=len(WEIGHTS))


async def test_the_hub_s_own_client_reads_this_server_alike(served: Served, tmp_path: Path) -> None:
    """Else the tests here would say nothing of the real one."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=served.address, token=False)
    tree = await asyncio.to_thread(lambda: list(api.list_repo_tree("org/model", recursive=True, revision="main")))
    assert {entry.path for entry in tree if hasattr(entry, "size")} >= set(FILES)
    name = "onnx/model.onnx_data"
    await asyncio.to_thread(lambda: api.hf_hub_download("org/model", name, local_dir=tmp_path / "hf", revision="main"))
    assert (tmp_path / "hf" / name).read_bytes() == WEIGHTS
