"""Weights that `serve` and `run` fetch: kept within a bound, or for one run alone where they cannot be known again."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from batchwright_worker.fetch.errors import FetchRefused
from batchwright_worker.local import weights
from batchwright_worker.local.weights import LocalCache, fetched, local_cache


class Site(SimpleHTTPRequestHandler):
    """Files; without their dates below /undated."""

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Last-Modified" or "undated" not in self.path:
            super().send_header(keyword, value)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    root = tmp_path / "site"
    (root / "undated").mkdir(parents=True)
    for name in ("a.onnx", "b.onnx", "undated/c.onnx"):
        (root / name).write_bytes(name.encode() * 100)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Site, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name in ("HTTP", "PRIVATE_ADDRESSES"):
        monkeypatch.setenv(f"BATCHWRIGHT_ALLOW_{name}", "true")
    yield root, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
    for shared in weights._open:
        shared.release()


def artifact(uri: str) -> dict[str, Any]:
    return {"uri": uri, "format": "onnx", "maxBytes": 10**6}


def test_what_was_fetched_is_there_until_its_server_has_it_no_more(site: tuple[Path, str], tmp_path: Path) -> None:
    root, url = site
    cache = LocalCache(root=tmp_path / "cache")
    first = fetched(artifact(f"{url}/a.onnx"), cache)
    assert first.read_bytes() == (root / "a.onnx").read_bytes()
    assert fetched(artifact(f"{url}/a.onnx"), cache) == first
    (root / "a.onnx").unlink()
    with pytest.raises(FetchRefused, match="404"):
        fetched(artifact(f"{url}/a.onnx"), cache)


def test_what_nobody_can_know_again_is_for_this_run_alone(
    site: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, url = site
    left = tmp_path / "cache" / "uncached" / "of-a-run-that-was-killed"
    left.mkdir(parents=True)
    (left / "lock").touch()
    found = fetched(artifact(f"{url}/undated/c.onnx"), LocalCache(root=tmp_path / "cache"))
    assert found.read_bytes() == (root / "undated" / "c.onnx").read_bytes()
    assert found.name == "c.onnx"
    assert not left.exists()
    again = fetched(artifact(f"{url}/undated/c.onnx"), LocalCache(root=tmp_path / "cache"))
    assert again != found
    assert found.exists(), "this process is still there"
    said = capsys.readouterr()
    assert ("past the cache" in said.err, said.out) == (True, "")


def test_the_bound_of_the_command_line_counts(site: tuple[Path, str], tmp_path: Path) -> None:
    _, url = site
    cache = LocalCache(root=tmp_path / "cache", max_bytes=100)
    assert "uncached" in fetched(artifact(f"{url}/a.onnx"), cache).parts


def test_the_cache_is_the_users_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert local_cache().root == tmp_path / "batchwright" / "weights"
    assert local_cache(Path("/x"), 5) == LocalCache(root=Path("/x"), max_bytes=5)
