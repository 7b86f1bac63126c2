"""The cache of weights: what is fetched once serves all, whole and verified, within its bound, whoever is killed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from batchwright_worker.api.messages import SidecarState
from batchwright_worker.fetch.artifact import WantedArtifact
from batchwright_worker.fetch.cache.counters import Counters, read_counters
from batchwright_worker.fetch.cache.layout import Layout, written_bytes
from batchwright_worker.fetch.cache.room import Bounds
from batchwright_worker.fetch.cache.verification import damage_of
from batchwright_worker.fetch.cache.weights_cache import CachedArtifact, WeightsCache
from batchwright_worker.fetch.errors import FetchRefused, Interrupted
from batchwright_worker.fetch.sources import store_of
from batchwright_worker.file_locks import taken
from batchwright_worker.protocol.metrics import Metrics
from tests.artifacts.test_companions import model_with
from tests.fetch.stores import LOOPBACK, Files

BODY = b"weights" * 10_000
STATE = SidecarState(revision=1, time=0.0, ready=True, models=[])


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@dataclass
class Node:
    """A server of files, and the caches of the processes of one node."""

    files: Files
    address: str
    root: Path
    said: list[str] = field(default_factory=list)
    caches: list[WeightsCache] = field(default_factory=list)

    def process(self, **bounds: Any) -> WeightsCache:
        """What one process has of the cache."""
        given = Bounds(**{"max_bytes": 10**9, "keep_free": 0.0, "grace_s": 0.0, **bounds})
        self.caches.append(WeightsCache(self.root, given, self.said.append, base_wait_s=0.0))
        return self.caches[-1]

    def put(self, name: str, body: bytes = BODY) -> str:
        self.files.content[name] = body
        return f"{self.address}/{name}"

    async def bring(self, process: WeightsCache, uri: str, **parts: Any) -> CachedArtifact | None:
        name = uri.rstrip("/").rpartition("/")[2]
        wanted = WantedArtifact(uri=uri, **{"format": "onnx", "target": Path(name), "max_bytes": 10**9, **parts})
        secret = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_ENDPOINT_URL": self.address}
        return await process.bring_if_possible(wanted, store_of(uri, LOOPBACK, secret))

    @property
    def layout(self) -> Layout:
        return Layout(self.root)

    @property
    def counters(self) -> Counters:
        return read_counters(self.root)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    files = Files()
    async with TestServer(files.app()) as server:
        made = Node(files, str(server.make_url("")).rstrip("/"), tmp_path / "cache")
        yield made
        for each in made.caches:
            each.release()


async def test_with_a_digest_it_is_fetched_once_and_nobody_is_asked_again(node: Node) -> None:
    uri = node.put("m.onnx")
    first = await node.bring(node.process(), uri, sha256=sha256(BODY))
    asked = list(node.files.asked)
    second = await node.bring(node.process(), uri, sha256=sha256(BODY))
    assert first is not None
    assert second is not None
    assert (first.is_hit, second.is_hit, first.path) == (False, True, second.path)
    assert first.path.read_bytes() == BODY
    assert node.files.asked == asked
    assert (node.counters.hits, node.counters.hit_bytes, node.counters.fetches) == (1, len(BODY), 1)
    assert (node.counters.entries, node.counters.bytes, node.counters.max_bytes) == (1, len(BODY), 10**9)


async def test_metrics_show_what_the_cache_has_counted(node: Node) -> None:
    uri = node.put("m.onnx")
    for _ in range(3):
        await node.bring(node.process(), uri, sha256=sha256(BODY))
    text = Metrics({}, lambda: STATE, cache=node.root).text().decode()
    shown = dict(line.split() for line in text.splitlines() if line.startswith("batchwright_weights_cache_"))
    name = "batchwright_weights_cache_{}".format
    assert float(shown[name("hits_total")]) == 2
    assert float(shown[name("hit_bytes_total")]) == 2 * len(BODY)
    assert float(shown[name("fetched_bytes_total")]) == float(shown[name("bytes")]) == len(BODY)
    assert float(shown[name("limit_bytes")]) == 10**9
    assert name("hits_total") not in Metrics({}, lambda: STATE).text().decode()


async def test_without_a_digest_its_version_decides(node: Node) -> None:
    uri = node.put("m.onnx")
    first = await node.bring(node.process(), uri)
    again = await node.bring(node.process(), uri)
    node.put("m.onnx", b"newer")
    newer = await node.bring(node.process(), uri)
    assert [each is not None and each.is_hit for each in (first, again, newer)] == [False, True, False]
    assert newer is not None
    assert newer.path.read_bytes() == b"newer"


@pytest.mark.parametrize("scheme", ["http", "s3"])
async def test_a_folder_without_a_digest_is_known_by_all_of_its_files(node: Node, scheme: str) -> None:
    bodies = {"model.onnx": b"m" * 1000, "tokenizer/vocab.txt": b"words"}

    def publish() -> None:
        for name, body in bodies.items():
            node.put(f"m/{name}", body)
        lines = "".join(f"{sha256(body)}  {name}\n" for name, body in bodies.items())
        if scheme == "http":
            node.put("m/SHA256SUMS", lines.encode())

    publish()
    uri = f"{node.address}/m/" if scheme == "http" else "s3://bucket/m/"
    found = [await node.bring(node.process(), uri) for _ in range(2)]
    bodies["tokenizer/vocab.txt"] = b"others"
    publish()
    found.append(await node.bring(node.process(), uri))
    assert [each is not None and each.is_hit for each in found] == [False, True, False]
    assert found[-1] is not None
    assert (found[-1].path / "tokenizer/vocab.txt").read_bytes() == b"others"
    assert (found[-1].path / "model.onnx").read_bytes() == bodies["model.onnx"]


async def test_a_file_that_another_one_names_has_a_version_too(node: Node) -> None:
    names = ("w.bin", "k.bin", "t.bin", "e.bin", "f.bin")
    uri = node.put("m.onnx", model_with(*names).SerializeToString())
    for name in names:
        node.put(name, name.encode())
    for body in (b"old", b"old", b"new"):
        node.put("w.bin", body)
        found = await node.bring(node.process(), uri)
        assert found is not None
        assert (found.path.parent / "w.bin").read_bytes() == body
    assert (node.counters.fetches, node.counters.hits) == (2, 1)


async def test_who_has_no_right_to_it_gets_nothing_from_the_cache(tmp_path: Path) -> None:
    async def answer(request: web.BaseRequest) -> web.Response:
        if request.headers.get("Authorization") != "Bearer mine":
            return web.Response(status=403)
        return web.Response(body=BODY, headers={"ETag": '"1"'})

    app = web.Application()
    app.router.add_get("/m.onnx", answer)
    async with TestServer(app) as server:
        wanted = WantedArtifact(
            uri=str(server.make_url("/m.onnx")), format="onnx", target=Path("m.onnx"), max_bytes=10**9
        )
        cache = WeightsCache(tmp_path, Bounds(max_bytes=10**9, keep_free=0.0), print)
        mine = store_of(wanted.uri, LOOPBACK, {"authorization": "Bearer mine"})
        assert not (await cache.bring(wanted, mine)).is_hit
        assert (await cache.bring(wanted, mine)).is_hit
        with pytest.raises(FetchRefused, match="403"):
            await cache.bring(wanted, store_of(wanted.uri, LOOPBACK, {}))
        cache.release()


async def test_what_has_neither_digest_nor_version_goes_past_the_cache(tmp_path: Path) -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(body=BODY)

    app = web.Application()
    app.router.add_get("/m.onnx", answer)
    async with TestServer(app) as server:
        said: list[str] = []
        cache = WeightsCache(tmp_path, Bounds(max_bytes=10**9, keep_free=0.0), said.append)
        uri = str(server.make_url("/m.onnx"))
        wanted = WantedArtifact(uri=uri, format="onnx", target=Path("m.onnx"), max_bytes=10**9)
        assert await cache.bring_if_possible(wanted, store_of(uri, LOOPBACK, {})) is None
        assert "does not tell versions apart" in said[-1]
        assert read_counters(tmp_path).uncached == 1


async def test_a_damaged_entry_is_fetched_anew_under_those_who_use_it(node: Node) -> None:
    uri, user = node.put("m.onnx"), node.process()
    first = await node.bring(user, uri, sha256=sha256(BODY))
    assert first is not None
    entry_file = first.path.parents[1] / "entry.json"
    inode = entry_file.stat().st_ino
    first.path.write_bytes(b"x" + BODY[1:])
    second = await node.bring(node.process(), uri, sha256=sha256(BODY))
    assert second is not None
    assert (second.is_hit, second.path.read_bytes() == BODY) == (False, True)
    assert any("has other contents" in text for text in node.said)
    assert entry_file.stat().st_ino == inode, "the user's lock would be on another file"
    assert (node.counters.damaged, node.counters.entries) == (1, 1)


async def test_the_least_recently_used_goes_and_nothing_that_is_in_use(node: Node) -> None:
    bodies = {name: name.encode() * 1000 for name in "abcd"}
    uris = {name: node.put(f"{name}.onnx", body) for name, body in bodies.items()}
    user, others = node.process(max_bytes=3000), node.process(max_bytes=3000)
    for index, name in enumerate("abc"):
        process = user if name == "a" else others
        found = await node.bring(process, uris[name], sha256=sha256(bodies[name]))
        assert found is not None
        os.utime(found.path.parents[1] / "entry.json", (index, index))
    others.release()
    assert await node.bring(others, uris["d"], sha256=sha256(bodies["d"])) is not None
    left = {entry.name for key in node.layout.entry_keys() if (entry := node.layout.read(key)) is not None}
    assert left == {"a.onnx", "c.onnx", "d.onnx"}
    assert (node.counters.evictions, node.counters.evicted_bytes) == (1, 1000)
    assert list((node.root / "trash").iterdir()) == []


async def test_where_all_is_in_use_or_new_it_goes_past_the_cache_and_nothing_is_lost(node: Node) -> None:
    bodies = {name: name.encode() * 1000 for name in "abc"}
    uris = {name: node.put(f"{name}.onnx", body) for name, body in bodies.items()}
    user, others = node.process(max_bytes=2000), node.process(max_bytes=2000, grace_s=60.0)
    assert await node.bring(user, uris["a"]) is not None
    assert await node.bring(others, uris["b"]) is not None
    others.release()  # of now, so its pod's containers may be about to hold it
    assert await node.bring(others, uris["c"]) is None
    assert "1000 bytes are missing" in node.said[-1]
    assert len(node.layout.entry_keys()) == 2
    assert node.layout.prefixes() == []
    assert await node.bring(others, node.put("large.onnx", b"x" * 2001)) is None


async def test_the_bound_is_kept_while_many_fetch_at_once(node: Node) -> None:
    bodies = {f"{number}.onnx": bytes([number]) * 50_000 for number in range(8)}
    uris = [node.put(name, body) for name, body in bodies.items()]
    bound, most, chance = 200_000, 0, random.Random(7)
    files_on_disk = [node.root / name for name in ("entries", "staging")]

    async def uses(process: WeightsCache, order: list[str]) -> None:
        for uri in order:
            found = await node.bring(process, uri)
            assert found is None or found.path.read_bytes() == bodies[found.path.name]
            await asyncio.sleep(0)
            process.release()

    async def watch() -> None:
        nonlocal most
        while True:
            weights = sum(written_bytes(folder) for folder in files_on_disk)
            texts = sum(node.layout.entry_file(key).stat().st_size for key in node.layout.entry_keys())
            most = max(most, weights - texts)
            await asyncio.sleep(0.002)

    watching = asyncio.create_task(watch())
    orders = [chance.sample(uris, len(uris)) for _ in range(4)]
    await asyncio.gather(*(uses(node.process(max_bytes=bound), order) for order in orders))
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError, FileNotFoundError):
        await watching
    assert 100_000 < most < bound + 1000  # and the few digits of each `reserved`
    assert node.counters.evictions > 0


async def test_a_full_disk_leaves_nothing_behind_and_is_no_failure(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def full(descriptor: int) -> None:
        if "/parts/" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    uri = node.put("m.onnx")
    assert await node.bring(node.process(), uri) is None
    assert "no space left" in node.said[-1]
    assert (node.layout.prefixes(), node.layout.entry_keys()) == ([], [])
    monkeypatch.setattr(os, "fsync", real)
    assert await node.bring(node.process(), uri) is not None


async def test_a_share_of_the_disk_stays_free(node: Node) -> None:
    disk = os.statvfs(node.root.parent)
    taken_share = 1 - disk.f_bavail / disk.f_blocks
    assert await node.bring(node.process(keep_free=0.999), node.put("m.onnx")) is None
    assert "bytes are missing" in node.said[-1]
    assert await node.bring(node.process(keep_free=max(0.0, 0.9 - taken_share)), node.put("m.onnx")) is not None


async def test_a_cache_that_cannot_be_written_is_no_failure(node: Node) -> None:
    node.root.write_text("a file")
    assert await node.bring(node.process(), node.put("m.onnx")) is None


async def test_where_the_store_is_silent_the_last_copy_serves_who_may_have_it(tmp_path: Path) -> None:
    files = Files({"m.onnx": BODY})
    async with TestServer(files.app()) as server:
        uri = str(server.make_url("/m.onnx"))
        wanted = WantedArtifact(uri=uri, format="onnx", target=Path("m.onnx"), max_bytes=10**9)
        cache = WeightsCache(tmp_path, Bounds(max_bytes=10**9, keep_free=0.0), print, may_be_old=True)
        await cache.bring(wanted, store_of(uri, LOOPBACK, {}))
    found = await cache.bring(wanted, store_of(uri, LOOPBACK, {}))
    assert (found.is_hit, found.path.read_bytes()) == (True, BODY)
    cache.may_be_old, cache.base_wait_s = False, 0.0
    with pytest.raises(Interrupted):
        await cache.bring(wanted, store_of(uri, LOOPBACK, {}))
    cache.release()


class Slow:
    """A server of one large file whose transfers take as long as the test wants; ranges are served."""

    def __init__(self) -> None:
        self.body = random.Random(3).randbytes(600_000)
        self.transfers: list[int] = []
        self.go_on = asyncio.Event()
        self.half_sent = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        ranged = "Range" in request.headers
        start = (request.http_range.start or 0) if ranged else 0
        self.transfers.append(start)
        response = web.StreamResponse(status=206 if ranged else 200, headers={"ETag": '"1"'})
        if ranged:
            response.headers["Content-Range"] = f"bytes {start}-{len(self.body) - 1}/{len(self.body)}"
        response.content_length = len(self.body) - start
        await response.prepare(request)
        middle = max(start, len(self.body) // 2)
        with contextlib.suppress(ConnectionError):
            await response.write(self.body[start:middle])
            self.half_sent.set()
            await self.go_on.wait()
            await response.write(self.body[middle:])
        return response


@dataclass
class Pods:
    """Fetch containers of one node, each a process with weights of its own."""

    uri: str
    sha256: str
    root: Path
    count: int = 0

    async def start(self, **environment: str) -> asyncio.subprocess.Process:
        self.count += 1
        folder = self.root / f"pod{self.count}"
        folder.mkdir()
        artifact = {"format": "onnx", "uri": self.uri, "sha256": self.sha256}
        spec = {"models": [{"name": "m", "artifacts": [artifact]}]}
        (folder / "deployment.json").write_text(json.dumps({"metadata": {"name": "d"}, "spec": spec}))
        start = (
            "import batchwright_worker.api.names as c, sys; c.WEIGHTS_DIR = sys.argv.pop(1);"
            "from batchwright_worker.__main__ import main; main()"
        )
        given = {
            "BATCHWRIGHT_ALLOW_HTTP": "true",
            "BATCHWRIGHT_ALLOW_PRIVATE_ADDRESSES": "true",
            "BATCHWRIGHT_CACHE": str(self.root / "cache"),
            "BATCHWRIGHT_CACHE_KEEP_FREE_PERCENT": "0",
        }
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", start, str(folder / "weights"), "fetch"),
            *(f"--deployment={folder / 'deployment.json'}", f"--termination-log={folder / 'termination'}"),
            env={**os.environ, **given, **environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    def weights(self, number: int) -> bytes:
        (found,) = (self.root / f"pod{number}" / "weights" / "fetched").glob("*/m.onnx")
        return found.read_bytes()


async def ended(process: asyncio.subprocess.Process) -> str:
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    return said.decode()


@pytest.fixture
async def slow() -> AsyncIterator[tuple[Slow, str]]:
    source = Slow()
    app = web.Application()
    app.router.add_get("/m.onnx", source.answer)
    async with TestServer(app) as server:
        yield source, str(server.make_url("/m.onnx"))
        source.go_on.set()


@pytest.fixture
def pods(slow: tuple[Slow, str], tmp_path: Path) -> Iterator[Pods]:
    source, uri = slow
    yield Pods(uri, sha256(source.body), tmp_path)
    assert all(damage(tmp_path / "cache", key) == "" for key in Layout(tmp_path / "cache").entry_keys())


def damage(root: Path, key: str) -> str:
    entry = Layout(root).read(key)
    return damage_of(Layout(root).content(key), entry) if entry is not None else "no entry.json"


async def test_processes_of_several_pods_fetch_once(slow: tuple[Slow, str], pods: Pods) -> None:
    source, _ = slow
    running = [await pods.start() for _ in range(3)]
    await source.half_sent.wait()
    source.go_on.set()
    said = [await ended(each) for each in running]
    assert source.transfers == [0]
    assert sum("into the cache" in text for text in said) == 1
    assert sum("from the cache" in text for text in said) == 2
    assert [pods.weights(number) for number in (1, 2, 3)] == [source.body] * 3
    counters = read_counters(pods.root / "cache")
    assert (counters.fetches, counters.hits) == (1, 2)


async def test_who_is_killed_in_the_middle_leaves_no_entry_and_the_next_one_goes_on(
    slow: tuple[Slow, str], pods: Pods
) -> None:
    source, _ = slow
    first = await pods.start()
    await source.half_sent.wait()
    part = pods.root / "cache" / "staging" / pods.sha256 / ".content.part" / "parts" / "m.onnx"
    while not part.exists() or part.stat().st_size < 200_000:  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(0.01)
    second = await pods.start()
    first.send_signal(signal.SIGKILL)
    await first.communicate()
    assert Layout(pods.root / "cache").entry_keys() == []
    source.go_on.set()
    await ended(second)
    assert pods.weights(2) == source.body
    assert source.transfers[0] == 0
    assert source.transfers[1] >= 200_000


async def test_a_lock_ends_with_its_process(slow: tuple[Slow, str], pods: Pods) -> None:
    """A container holds what its pod's links lead to; then somebody may evict it."""
    source, _ = slow
    source.go_on.set()
    await ended(await pods.start())
    (key,) = Layout(pods.root / "cache").entry_keys()
    entry_file = Layout(pods.root / "cache").entry_file(key)
    program = (
        "import pathlib, sys; from batchwright_worker.fetch.cache.holding import hold_linked;"
        "print(hold_linked(pathlib.Path(sys.argv[1])), flush=True); sys.stdin.read()"
    )
    holder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, str(pods.root / "pod1" / "weights" / "fetched")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"1\n"
    assert taken(entry_file) is None
    holder.kill()
    await holder.communicate()
    lock = taken(entry_file)
    assert lock is not None
    lock.release()


@pytest.mark.soak
async def test_kills_at_any_moment_leave_whole_entries(slow: tuple[Slow, str], pods: Pods) -> None:
    source, _ = slow
    source.go_on.set()
    chance = random.Random(11)
    for _ in range(60):
        process = await pods.start()
        await asyncio.sleep(chance.uniform(0.2, 1.2))
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
        layout = Layout(pods.root / "cache")
        assert all(damage(layout.root, key) == "" for key in layout.entry_keys())
        if chance.random() < 0.5:
            for key in layout.entry_keys():
                layout.discard(layout.entry(key))
    await ended(await pods.start())
    assert pods.weights(pods.count) == source.body
