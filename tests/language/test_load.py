"""Full queues, deadlines of clients, callers who leave."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.language.text_models import SENTENCE_FILES, entry, folder_of
from tests.protocol.serving import Served, manifest, serving

SLOW = '''
import time
from pathlib import Path
import numpy as np

class Model:
    """Takes 0.2 s a batch, or as long as there is a file `hold` in its folder."""

    def __init__(self, path):
        self.hold = Path(path) / "hold"

    def infer(self, inputs):
        time.sleep(0.2)
        while self.hold.exists():
            time.sleep(0.005)
        return {"y": inputs["input_ids"][:, :1].repeat(3, 1).astype(np.float32)}
'''


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`slow`: two rows a batch, twelve may wait."""
    root = tmp_path_factory.mktemp("slow")
    folder: Path = folder_of(root, "slow", "token", SENTENCE_FILES)
    (folder / "model.py").write_text(SLOW)
    model: dict[str, Any] = {
        **entry(folder, type="Embedding"),
        "inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [-1]},
                   {"name": "attention_mask", "datatype": "INT64", "shape": [-1]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [3]}],
        "batching": {"mode": "Rows", "maxSize": 2, "maxQueueLength": 12},
        "warmup": {"mode": "Skip"},
    }  # fmt: skip
    model["artifacts"] = [{"format": "python", "uri": f"{folder.as_uri()}/", "script": {"file": "model.py"}}]
    with serving(root, manifest("slow", [model])) as served:
        served.folder = folder
        yield served


def ask(served: Served, **headers: str) -> tuple[int, dict[str, str], Any]:
    status, answered, content = served.get(
        "/v1/embeddings", json.dumps({"model": "slow", "input": "cat"}).encode(), **headers
    )
    return status, answered, json.loads(content)


def test_a_full_queue_is_429_and_says_when_to_come_back(served: Served) -> None:
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda _: ask(served), range(32)))
    refused = [(headers, body) for status, headers, body in found if status != 200]
    assert {status for status, _, _ in found} == {200, 429}
    for headers, body in refused:
        assert int(headers["retry-after"]) >= 1
        assert (body["error"]["type"], body["error"]["code"]) == ("rate_limit_error", "rate_limit_exceeded")


def test_a_client_that_reads_no_longer_is_answered_by_then(served: Served) -> None:
    status, _, body = ask(served, **{"x-stainless-read-timeout": "0.05"})
    assert (status, body["error"]["code"]) == (504, "deadline_exceeded")
    assert ask(served, **{"x-stainless-read-timeout": "600"})[0] == 200


def test_rows_of_a_caller_who_has_left_are_skipped(served: Served) -> None:
    assert served.folder is not None
    body = json.dumps({"model": "slow", "input": ["cat"] * 12}).encode()
    before, hold = rows(served), served.folder / "hold"
    hold.touch()
    try:
        with socket.create_connection(("127.0.0.1", served.http)) as caller:
            head = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
            caller.sendall(head % len(body) + body)
            until(lambda: pending(served) > 0)
        until(lambda: pending(served) == 0)
    finally:
        hold.unlink()
    assert ask(served)[0] == 200
    assert rows(served) - before <= 2 * 2 + 1, "what ran or was on its way, and its own"


def until(claim: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not claim():
        assert time.monotonic() < end


def rows(served: Served) -> int:
    """How many have run."""
    return int(json.loads(served.get("/v2/models/slow/stats")[2])["model_stats"][0]["inference_count"])


def pending(served: Served) -> float:
    """Requests that wait or run."""
    lines = served.get("/metrics")[2].decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("nv_inference_pending_request_count{"))
