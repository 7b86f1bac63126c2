"""Objects through a file system of fsspec: from any offset, and to the size that the store says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from batchwright_worker.fetch.artifact import WantedArtifact, fetch_artifact
from batchwright_worker.fetch.download import ATTEMPTS
from batchwright_worker.fetch.errors import FetchRefused, Interrupted
from batchwright_worker.fetch.objectstore import ObjectStore
from batchwright_worker.fetch.policy import FetchPolicy
from batchwright_worker.fetch.source import CHUNK_BYTES

URI = "s3://bucket/rec.onnx"
BODY = bytes(range(256)) * (10 * CHUNK_BYTES // 256) + b"end"


class Store(MemoryFileSystem):
    """One object, whose connection is lost, or ends, `faults` times after the first chunk."""

    cachable = False

    def __init__(self, body: bytes = BODY, *, faults: int = 0, ends: bool = False) -> None:
        super().__init__()
        self.store = {}
        self.tag = "1"
        self.pipe_file(URI, body)
        self.faults, self.ends = faults, ends
        self.starts: list[int] = []

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        return {**super().info(path, **kwargs), "ETag": self.tag}

    def open(self, path: str, *args: Any, **kwargs: Any) -> Any:
        file = super().open(path, *args, **kwargs)
        read = file.read

        def faulty(size: int) -> bytes:
            if not self.starts or self.starts[-1] != file.tell():
                self.starts.append(file.tell())
            if file.tell() > 0 and self.faults:
                self.faults -= 1
                if self.ends:
                    return b""
                raise ConnectionError("lost")
            return bytes(read(size))

        file.read = faulty
        file.details = self.info(path)
        return file


def on(system: Store) -> ObjectStore:
    store = ObjectStore("s3", FetchPolicy(), {})
    store.system = lambda: system  # type: ignore[method-assign]
    return store


async def fetch(system: Store, target: Path, max_bytes: int = 10**9, uri: str = URI) -> None:
    wanted = WantedArtifact(uri=uri, format="onnx", target=target, max_bytes=max_bytes)
    await fetch_artifact(wanted, on(system), lambda _: None, base_wait_s=0.0)


@pytest.mark.parametrize("offset", [0, 1, 8 * CHUNK_BYTES, len(BODY) - 1, len(BODY)])
async def test_a_transfer_starts_at_any_offset(offset: int) -> None:
    async with on(Store()).source(URI).open(offset, "1") as opened:
        assert (opened.offset, opened.total_bytes) == (offset, len(BODY))
        assert b"".join([chunk async for chunk in opened.chunks]) == BODY[offset:]


@pytest.mark.parametrize("ends", [False, True], ids=["connection lost", "ends early"])
async def test_a_cut_transfer_goes_on_where_it_stopped(ends: bool, tmp_path: Path) -> None:
    store = Store(faults=2, ends=ends)
    await fetch(store, tmp_path / "d" / "x")
    assert (tmp_path / "d" / "x").read_bytes() == BODY
    assert store.starts == [0, 8 * CHUNK_BYTES, len(BODY)]


async def test_an_object_that_always_ends_early_is_given_up(tmp_path: Path) -> None:
    store = Store(faults=ATTEMPTS, ends=True)
    with pytest.raises(Interrupted, match=f"ended after {8 * CHUNK_BYTES} of {len(BODY)} bytes"):
        await fetch(store, tmp_path / "d" / "x")
    assert store.faults == 0


async def test_a_large_object_is_refused_before_it_is_read(tmp_path: Path) -> None:
    store = Store()
    with pytest.raises(FetchRefused, match="maxBytes"):
        await fetch(store, tmp_path / "d" / "x", max_bytes=len(BODY) - 1)
    assert store.starts == []


async def test_an_object_that_changes_between_attempts_is_taken_anew(tmp_path: Path) -> None:
    store = Store(faults=1)
    store_open = store.open

    def replaced(path: str, *args: Any, **kwargs: Any) -> Any:
        if store.starts and store.tag == "1":
            store.tag = "2"
            store.pipe_file(URI, BODY[::-1])
        return store_open(path, *args, **kwargs)

    store.open = replaced
    await fetch(store, tmp_path / "d" / "x")
    assert (tmp_path / "d" / "x").read_bytes() == BODY[::-1]


async def test_an_object_that_changes_while_it_is_read_is_taken_anew(tmp_path: Path) -> None:
    store, infos = Store(), 0
    store_info = store.info

    def changing(path: str, **kwargs: Any) -> dict[str, Any]:
        nonlocal infos
        infos += 1
        store.tag = "1" if infos == 1 else "2"
        return store_info(path, **kwargs)

    store.info = changing
    await fetch(store, tmp_path / "d" / "x")
    assert store.starts.count(0) == 2


async def test_an_empty_object(tmp_path: Path) -> None:
    await fetch(Store(b""), tmp_path / "d" / "x")
    assert (tmp_path / "d" / "x").read_bytes() == b""
