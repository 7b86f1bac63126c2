"""A call with texts is a span around those of its requests to the engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.language.text_models import SENTENCE_FILES, entry, folder_of
from tests.protocol.serving import manifest, serving
from tests.sidecar.collector import Collector

pytestmark = pytest.mark.slow


def test_texts_of_two_lengths_are_two_requests_in_one_call(
    collector: Collector, environ: dict[str, str], tmp_path: Path
) -> None:
    model = entry(folder_of(tmp_path, "words", "token", SENTENCE_FILES), type="Embedding")
    trace, caller = "e" * 32, "f" * 16
    body = json.dumps({"model": "words", "input": ["cat", "the cat sat on a mat and then ran far away"]}).encode()
    with serving(tmp_path, manifest("texts", [model])) as served:
        status, _, _ = served.get("/v1/embeddings", body, traceparent=f"00-{trace}-{caller}-01")
        assert status == 200
    spans = [each for each in collector.spans if each.trace == trace]
    (call,) = [each for each in spans if each.parent == caller]
    assert (call.name, call.kind) == ("POST /v1/embeddings", 2)
    assert call.attributes["http.response.status_code"] == 200
    assert [each.name for each in spans if each.parent == call.span] == ["infer words"] * 2
