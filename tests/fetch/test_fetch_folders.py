"""Artifacts of several files: folders over HTTP and S3, and models with their weights beside them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

from batchwright_worker.artifacts.digest import digest_of, digest_over, file_sha256, lines
from batchwright_worker.artifacts.names import MOST_FILES
from batchwright_worker.fetch.artifact import FetchedArtifact, WantedArtifact, fetch_artifact
from batchwright_worker.fetch.at_once import AT_ONCE
from batchwright_worker.fetch.errors import FetchRefused, Interrupted
from batchwright_worker.fetch.sources import store_of
from tests.artifacts.test_companions import model_with
from tests.fetch.stores import LOOPBACK, Files

BODIES = {
    "model.onnx": b"model" * 1000,
    "tokenizer/vocab.txt": b"words" * 100,
    "tokenizer/a b+ä.json": b"{}",
    ".gitattributes": b"",
}
SIZE = sum(map(len, BODIES.values()))
WEIGHTS = ["w.bin", "sub/k.bin", "then.bin", "else.bin", "function.bin"]


@dataclass
class Served:
    """A server's files and its address; artifacts go below `root`."""

    files: Files
    address: str
    root: Path

    def put(self, scheme: str, bodies: dict[str, bytes] = BODIES) -> str:
        """These files as the folder `m/`; its URI."""
        for name, body in bodies.items():
            self.files.content[f"m/{name}"] = body
        if scheme == "http":
            self.index(bodies)
        return f"{self.address}/m/" if scheme == "http" else "s3://bucket/m/"

    def index(self, bodies: dict[str, bytes]) -> None:
        sums = {name: hashlib.sha256(body).hexdigest() for name, body in bodies.items()}
        self.files.content["m/SHA256SUMS"] = lines(sums).encode()

    @property
    def target(self) -> Path:
        return self.root / "d" / "m"

    async def fetch(self, uri: str, **parts: Any) -> FetchedArtifact:
        wanted = {"format": "onnx", "target": self.target, "max_bytes": 10**9, **parts}
        secret = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_ENDPOINT_URL": self.address}
        store = store_of(uri, LOOPBACK, secret)
        return await fetch_artifact(WantedArtifact(uri=uri, **wanted), store, lambda _: None, base_wait_s=0.0)

    def left(self) -> list[str]:
        """Everything below the root that is no folder."""
        return sorted(path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    files = Files()
    async with TestServer(files.app()) as server:
        yield Served(files, str(server.make_url("")).rstrip("/"), tmp_path / "weights")


both = pytest.mark.parametrize("scheme", ["http", "s3"])


@both
async def test_a_folder_arrives_whole(scheme: str, served: Served) -> None:
    fetched = await served.fetch(served.put(scheme))
    assert (fetched.files, fetched.total_bytes) == (len(BODIES), SIZE)
    assert {name: (served.target / name).read_bytes() for name in BODIES} == BODIES
    assert served.left() == sorted(f"d/m/{name}" for name in BODIES)


@both
async def test_one_digest_on_every_scheme(scheme: str, served: Served, tmp_path: Path) -> None:
    for name, body in BODIES.items():
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "here" / name).write_bytes(body)
    digest = digest_of(tmp_path / "here", "onnx")
    uri = served.put(scheme)
    assert not (await served.fetch(uri, sha256=digest)).already
    asked = len(served.files.asked)
    assert (await served.fetch(uri, sha256=digest)).already
    assert len(served.files.asked) == asked


@both
async def test_a_wrong_digest_leaves_nothing_and_says_the_right_one(scheme: str, served: Served) -> None:
    uri = served.put(scheme)
    with pytest.raises(FetchRefused, match="the digest over its 4 files") as refused:
        await served.fetch(uri, sha256="0" * 64)
    assert served.left() == []
    digest = str(refused.value).split(" is ")[1][:64]
    await served.fetch(uri, sha256=digest)


@both
async def test_a_folder_that_has_changed_replaces_the_old_one(scheme: str, served: Served) -> None:
    await served.fetch(served.put(scheme))
    del served.files.content["m/tokenizer/vocab.txt"]
    uri = served.put(scheme, {"model.onnx": b"new"})
    await served.fetch(uri, sha256=digest_over({"model.onnx": _sha(b"new")} | _others(scheme)))
    assert (served.target / "model.onnx").read_bytes() == b"new"
    assert not (served.target / "tokenizer/vocab.txt").exists()


def _sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _others(scheme: str) -> dict[str, str]:
    """What a second `put` leaves in the bucket (an index names what it names)."""
    kept = ("tokenizer/a b+ä.json", ".gitattributes") if scheme == "s3" else ()
    return {name: _sha(BODIES[name]) for name in kept}


@both
async def test_maxbytes_is_for_all_files_together(scheme: str, served: Served) -> None:
    uri = served.put(scheme)
    with pytest.raises(
        FetchRefused, match=f"maxBytes, {SIZE - 1} bytes .at least {SIZE}.; raise it if all of its files"
    ):
        await served.fetch(uri, max_bytes=SIZE - 1)
    assert served.left() == []
    await served.fetch(uri, max_bytes=SIZE)


@both
async def test_files_that_are_cut_go_on_and_others_wait_for_nothing(scheme: str, served: Served) -> None:
    served.files.cuts = {"m/model.onnx": 2}
    await served.fetch(served.put(scheme, {**BODIES, "model.onnx": b"model" * 500_000}))
    assert (served.target / "model.onnx").read_bytes() == b"model" * 500_000


@both
async def test_a_process_that_comes_after_one_that_failed_goes_on(scheme: str, served: Served) -> None:
    """The container is restarted; the volume with what has arrived is still there."""
    uri = served.put(scheme, {**BODIES, "model.onnx": b"model" * 500_000})
    served.files.cuts = {"m/model.onnx": 100}
    with pytest.raises(Interrupted):
        await served.fetch(uri)
    assert not served.target.exists()
    served.files.asked.clear()
    served.files.cuts.clear()
    await served.fetch(uri)
    assert (served.target / "model.onnx").read_bytes() == b"model" * 500_000
    # Over HTTP each file is asked for its version; from a bucket's list that is known.
    assert scheme == "http" or set(served.files.names("GET")) == {"m/model.onnx"}


async def test_what_changed_between_two_processes_is_fetched_anew(served: Served) -> None:
    uri = served.put("s3", {"model.onnx": b"model" * 500_000, "small": b"1"})
    served.files.cuts = {"m/model.onnx": 100}
    with pytest.raises(Interrupted):
        await served.fetch(uri)
    served.files.cuts.clear()
    served.put("s3", {"model.onnx": b"other" * 500_000, "small": b"2"})
    await served.fetch(uri)
    assert (served.target / "model.onnx").read_bytes() == b"other" * 500_000
    assert (served.target / "small").read_bytes() == b"2"


@both
async def test_a_few_files_travel_at_once(scheme: str, served: Served) -> None:
    await served.fetch(served.put(scheme, {f"{number}": b"x" * 200_000 for number in range(20)}))
    assert 1 <= served.files.most_at_once <= AT_ONCE


async def test_a_folder_without_its_slash_is_told_so(served: Served) -> None:
    served.put("s3")
    with pytest.raises(FetchRefused, match="a folder ends in /"):
        await served.fetch("s3://bucket/m")


async def test_an_empty_folder_is_refused(served: Served) -> None:
    with pytest.raises(FetchRefused, match="there is nothing in this folder"):
        await served.fetch("s3://bucket/none/")


async def test_a_folder_over_http_needs_its_index(served: Served) -> None:
    with pytest.raises(FetchRefused, match="needs the index SHA256SUMS in it, as `batchwright-worker digest --list"):
        await served.fetch(f"{served.address}/m/")


async def test_a_file_that_is_not_what_the_index_says_is_refused(served: Served) -> None:
    uri = served.put("http")
    served.files.content["m/model.onnx"] = b"other"
    with pytest.raises(FetchRefused, match="that of its index"):
        await served.fetch(uri)
    assert served.left() == []


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../x", "a\\b"])
async def test_an_index_cannot_name_what_is_elsewhere(name: str, served: Served) -> None:
    served.files.content["m/SHA256SUMS"] = f"{'0' * 64}  {name}\n".encode()
    with pytest.raises(FetchRefused, match="SHA256SUMS names"):
        await served.fetch(f"{served.address}/m/")
    assert served.files.names() == ["m/SHA256SUMS"]


@pytest.mark.parametrize("name", ["../secret", "a/../../x", "/x"])
async def test_a_bucket_cannot_name_what_is_elsewhere(name: str, served: Served) -> None:
    uri = served.put("s3", {"model.onnx": b"m", name: b"x"})
    with pytest.raises(FetchRefused, match="names"):
        await served.fetch(uri)
    assert served.left() == []


async def test_a_bucket_with_too_many_files_is_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchwright_worker.artifacts.names.MOST_FILES", 3)
    with pytest.raises(FetchRefused, match="names 4 files, at most 3 are taken"):
        await served.fetch(served.put("s3"))
    assert MOST_FILES >= 10_000


# --- a file with those that it names


def onnx_model(served: Served, *, without: str = "") -> str:
    """An ONNX model with its weights in five other files; its URI."""
    served.files.content["m/model.onnx"] = model_with(*WEIGHTS).SerializeToString()
    for name in WEIGHTS:
        if name != without:
            served.files.content[f"m/{name}"] = name.encode()
    return f"{served.address}/m/model.onnx"


async def fetch_model(served: Served, uri: str, **parts: Any) -> Path:
    target = served.root / "d" / uri.partition("?")[0].rpartition("/")[2]
    await served.fetch(uri, target=target, **parts)
    return target


@pytest.mark.parametrize("scheme", ["http", "s3"])
async def test_files_that_a_model_names_come_along(scheme: str, served: Served) -> None:
    uri = onnx_model(served)
    target = await fetch_model(served, uri if scheme == "http" else "s3://bucket/m/model.onnx")
    assert {name: (target.parent / name).read_bytes() for name in WEIGHTS} == {name: name.encode() for name in WEIGHTS}


async def test_a_shared_access_signature_goes_with_them(served: Served) -> None:
    await fetch_model(served, f"{onnx_model(served)}?sig=1%2B2")
    assert served.left() == sorted(f"d/{name}" for name in ["model.onnx", *WEIGHTS])


async def test_one_that_is_missing_is_told_before_the_others_are_read(served: Served) -> None:
    uri = onnx_model(served, without="then.bin")
    with pytest.raises(
        FetchRefused, match=r"keeps its weights in 5 files .*then\.bin: status 404.*uri of their folder"
    ):
        await fetch_model(served, uri)
    assert served.left() == []


async def test_the_digest_is_over_the_model_and_what_it_names(served: Served) -> None:
    uri = onnx_model(served)
    target = await fetch_model(served, uri)
    whole, alone = digest_of(target, "onnx"), file_sha256(target)
    await fetch_model(served, uri, sha256=whole)
    with pytest.raises(FetchRefused, match=rf"is that of model\.onnx alone.* over all of them is {whole}"):
        await fetch_model(served, uri, sha256=alone)
    served.files.content["m/w.bin"] = b"changed"
    shutil.rmtree(target.parent)
    with pytest.raises(FetchRefused, match="the digest over its 6 files"):
        await fetch_model(served, uri, sha256=whole)


async def test_limits_hold_for_the_model_and_what_it_names(served: Served) -> None:
    uri = onnx_model(served)
    size = len(served.files.content["m/model.onnx"])
    with pytest.raises(FetchRefused, match="raise it if all of its files should be fetched"):
        await fetch_model(served, uri, max_bytes=size + 10)


@pytest.mark.parametrize("location", ["../../etc/passwd", "/etc/passwd", "model.onnx"])
async def test_a_model_cannot_name_what_is_elsewhere(location: str, served: Served) -> None:
    served.files.content["m/model.onnx"] = model_with(location, *WEIGHTS[1:]).SerializeToString()
    with pytest.raises(FetchRefused, match=r"model\.onnx names"):
        await fetch_model(served, f"{served.address}/m/model.onnx")
    assert served.files.names() == ["m/model.onnx"]


async def test_shards_of_a_safetensors_index(served: Served) -> None:
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    served.files.content |= {
        "m/model.safetensors.index.json": json.dumps(index).encode(),
        "m/1.safetensors": b"1",
        "m/2.safetensors": b"2",
    }
    uri = f"{served.address}/m/model.safetensors.index.json"
    target = await fetch_model(served, uri, format="safetensors")
    assert (target.parent / "2.safetensors").read_bytes() == b"2"
