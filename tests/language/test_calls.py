"""/v1/embeddings and /v1/rerank of a real `serve`: answers, counts, errors."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tokenizers

from tests.language.text_models import MOST, WORDS, logit, vector
from tests.protocol.serving import Served

TEXTS = ["cat", "the cat sat on a mat", " ".join(WORDS), "dog", "then dog ran far away and some more words"]


def post(served: Served, path: str, **body: Any) -> tuple[int, dict[str, str], Any]:
    status, headers, content = served.get(path, json.dumps(body).encode())
    return status, headers, json.loads(content)


def embed(served: Served, model: str, texts: Any, **more: Any) -> tuple[np.ndarray, dict[str, int]]:
    status, _, body = post(served, "/v1/embeddings", model=model, input=texts, **more)
    assert status == 200, body
    assert [each["index"] for each in body["data"]] == list(range(len(body["data"])))
    return np.array([each["embedding"] for each in body["data"]]), body["usage"]


@pytest.mark.parametrize("model", ["token", "sentence"])
def test_texts_of_unequal_length_have_the_answers_that_each_has_alone(
    served: Served, tokenizer: tokenizers.Tokenizer, model: str
) -> None:
    found, usage = embed(served, model, TEXTS)
    ids = [tokenizer.encode(text).ids for text in TEXTS]
    np.testing.assert_allclose(found, [vector(each, per_token=model == "token") for each in ids], atol=2e-6)
    assert usage == {"prompt_tokens": sum(map(len, ids)), "total_tokens": sum(map(len, ids))}
    alone = np.concatenate([embed(served, model, text)[0] for text in TEXTS])
    np.testing.assert_allclose(found, alone, atol=2e-6)


def test_callers_of_all_lengths_at_once_get_their_own_answers(served: Served, tokenizer: tokenizers.Tokenizer) -> None:
    texts = [" ".join(WORDS[(number * 7) % 5 : (number * 7) % 5 + 1 + number % 11]) for number in range(60)]
    with ThreadPoolExecutor(12) as pool:
        found = np.concatenate([each for each, _ in pool.map(lambda text: embed(served, "token", text), texts)])
    wanted = [vector(tokenizer.encode(text).ids, per_token=True) for text in texts]
    np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_many_texts_are_rows_of_few_batches(served: Served) -> None:
    def counts() -> tuple[int, int]:
        found = json.loads(served.get("/v2/models/token/stats")[2])["model_stats"][0]
        return found["inference_count"], found["execution_count"]

    before = counts()
    embed(served, "token", ["the cat sat on a mat"] * 64 + ["dog"] * 64)
    rows, batches = (now - then for now, then in zip(counts(), before, strict=True))
    assert rows == 128
    assert batches <= 40


def test_tokens_are_taken_as_they_are(served: Served, tokenizer: tokenizers.Tokenizer) -> None:
    ids = [tokenizer.encode(text).ids for text in TEXTS]
    np.testing.assert_allclose(embed(served, "token", ids)[0], embed(served, "token", TEXTS)[0], atol=2e-6)
    np.testing.assert_allclose(embed(served, "token", ids[1])[0], embed(served, "token", TEXTS[1])[0], atol=2e-6)


def test_what_is_null_is_left_out(served: Served) -> None:
    left_out = dict.fromkeys(("encoding_format", "dimensions", "user"))
    assert post(served, "/v1/embeddings", **GOOD, **left_out)[2] == post(served, "/v1/embeddings", **GOOD)[2]


def test_base64_is_little_endian_floats(served: Served) -> None:
    _, _, body = post(served, "/v1/embeddings", model="token", input=TEXTS, encoding_format="base64")
    found = [np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in body["data"]]
    np.testing.assert_allclose(found, embed(served, "token", TEXTS)[0], rtol=1e-6)


def test_vectors_are_cut_to_what_the_manifest_names(served: Served) -> None:
    whole, _ = embed(served, "near", TEXTS)
    short, _ = embed(served, "near", TEXTS, dimensions=4)
    np.testing.assert_allclose(short, whole[:, :4] / np.linalg.norm(whole[:, :4], axis=1, keepdims=True), atol=2e-6)
    np.testing.assert_array_equal(embed(served, "near", TEXTS, dimensions=6)[0], whole)
    status, _, body = post(served, "/v1/embeddings", model="near", input=TEXTS, dimensions=5)
    assert (status, body["error"]["param"]) == (400, "dimensions")
    assert "gives 4, 6" in body["error"]["message"]


def test_long_texts_are_cut_where_the_manifest_says_so(served: Served, tokenizer: tokenizers.Tokenizer) -> None:
    from tests.language.text_models import TABLE

    found, usage = embed(served, "short", ["cat " * 5000, "cat sat"])
    ids = [tokenizer.encode("cat cat cat cat").ids, tokenizer.encode("cat sat").ids]
    np.testing.assert_allclose(found, [TABLE[2] + TABLE[each].mean(0) for each in ids], atol=2e-6)
    assert usage["prompt_tokens"] == 6 + 4


def test_pairs_are_scored_and_sorted(served: Served, tokenizer: tokenizers.Tokenizer) -> None:
    encodings = [tokenizer.encode("cat sat", text) for text in TEXTS]
    logits = np.array([logit(each.ids, each.type_ids) for each in encodings])
    wanted = 1 / (1 + np.exp(-logits))
    for path in ("/v1/rerank", "/v2/rerank"):
        status, _, body = post(served, path, model="pairs", query="cat sat", documents=TEXTS)
        assert status == 200
        order = [each["index"] for each in body["results"]]
        assert order == sorted(range(len(TEXTS)), key=lambda number: -logits[number])
        scores = [each["relevance_score"] for each in body["results"]]
        np.testing.assert_allclose(scores, wanted[order], rtol=1e-4, atol=1e-6)
        assert "document" not in body["results"][0]
        assert body["meta"]["tokens"]["input_tokens"] == sum(len(each.ids) for each in encodings)


def test_documents_may_be_objects_and_come_back(served: Served) -> None:
    documents = [{"text": text, "id": 7} for text in TEXTS]
    more = {"top_n": 2, "return_documents": True}
    _, _, body = post(served, "/v1/rerank", model="pairs", query="cat", documents=documents, **more)
    assert len(body["results"]) == 2
    assert [each["document"]["text"] for each in body["results"]] == [TEXTS[each["index"]] for each in body["results"]]


def test_documents_are_cut_to_the_tokens_that_are_asked_for(served: Served) -> None:
    def of(documents: list[str], **more: Any) -> list[float]:
        _, _, body = post(served, "/v1/rerank", model="pairs", query="cat", documents=documents, **more)
        return sorted(each["relevance_score"] for each in body["results"])

    assert of(["the cat sat on a mat", "dog"], max_tokens_per_doc=2) == of(["the cat", "dog"])


def test_an_embedding_model_ranks_by_cosine_where_it_is_declared(
    served: Served, tokenizer: tokenizers.Tokenizer
) -> None:
    _, _, body = post(served, "/v1/rerank", model="near", query="cat sat", documents=TEXTS)
    query = vector(tokenizer.encode("cat sat").ids, per_token=False)
    for each in body["results"]:
        wanted = query @ vector(tokenizer.encode(TEXTS[each["index"]]).ids, per_token=False)
        assert each["relevance_score"] == pytest.approx(wanted, abs=2e-6)
    status, _, body = post(served, "/v1/rerank", model="token", query="cat", documents=TEXTS)
    assert (status, body["error"]["param"]) == (400, "model")
    assert "rerankByCosine" in body["error"]["message"]


def test_models_are_listed(served: Served) -> None:
    body = json.loads(served.get("/v1/models")[2])
    assert [each["id"] for each in body["data"]] == ["near", "pairs", "sentence", "short", "token", "unpooled"]
    assert json.loads(served.get("/v1/models/near")[2])["object"] == "model"
    assert served.get("/v1/models/tensors")[0] == 404


GOOD = {"model": "token", "input": "cat"}
RANK = {"model": "pairs", "query": "cat", "documents": ["dog"]}


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "code", "words"),
    [
        ("embeddings", {**GOOD, "model": "nobody"}, 404, "model", "model_not_found", "nobody"),
        ("embeddings", {**GOOD, "model": "tensors"}, 404, "model", "model_not_found", "no task"),
        ("embeddings", {**GOOD, "model": "pairs"}, 400, "model", None, "is Rerank, not Embedding"),
        ("embeddings", {**GOOD, "model": "unpooled"}, 500, None, "model_not_usable", "task.pooling"),
        ("embeddings", {"model": "token"}, 400, "input", None, "missing required field"),
        ("embeddings", {**GOOD, "input": []}, 400, "input", None, "at least one text"),
        ("embeddings", {**GOOD, "input": ["cat", ""]}, 400, "input", None, "empty text"),
        ("embeddings", {**GOOD, "input": ["cat", [2, 3]]}, 400, "input", None, "texts and tokens"),
        ("embeddings", {**GOOD, "input": [2, 9999]}, 400, "input", None, "does not have: 0 to"),
        ("embeddings", {**GOOD, "input": 3}, 400, "input", None, "not what is wanted"),
        ("embeddings", {**GOOD, "input": ["cat"] * 2049}, 400, "input", None, "at most 2048"),
        ("embeddings", {**GOOD, "input": "cat " * (MOST - 1)}, 400, "input", "context_length_exceeded", "at most 40"),
        ("embeddings", {**GOOD, "input": "cat " * 500_000}, 400, "input", "context_length_exceeded", "at most 40"),
        ("embeddings", {**GOOD, "input": [5] * 41}, 400, "input", "context_length_exceeded", "41 tokens"),
        ("embeddings", {**GOOD, "encoding_format": "hex"}, 400, "encoding_format", None, "float or base64"),
        ("embeddings", {**GOOD, "truncate": True}, 400, "truncate", None, "unknown field"),
        ("embeddings", {**GOOD, "timeout": -1}, 400, None, None, "microseconds"),
        ("embeddings", {**GOOD, "timeout": 1}, 504, None, "deadline_exceeded", ""),
        ("rerank", {**RANK, "documents": []}, 400, "documents", None, "none of them empty"),
        ("rerank", {**RANK, "query": ""}, 400, "query", None, "none of them empty"),
        ("rerank", {**RANK, "top_n": 0}, 400, "top_n", None, "at least 1"),
        ("rerank", {**RANK, "documents": [{"title": "x"}]}, 400, "documents", None, "text"),
        ("rerank", {**RANK, "rank_fields": ["title"]}, 400, "rank_fields", None, "text alone"),
        ("rerank", {**RANK, "max_chunks_per_doc": 3}, 400, "max_chunks_per_doc", None, "not cut into pieces"),
        ("rerank", {**RANK, "documents": ["dog", "dog " * 40]}, 400, "documents", "context_length_exceeded", "[1] has"),
    ],
)  # fmt: skip
def test_errors_are_in_their_clients_form(  # noqa: PLR0917
    served: Served, path: str, body: dict[str, Any], status: int, param: str | None, code: str | None, words: str
) -> None:
    found, _, answer = post(served, f"/v1/{path}", **body)
    error = answer["error"]
    assert (found, error["param"], error["code"]) == (status, param, code), answer
    assert words in error["message"]
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    assert answer["message"] == error["message"]


def test_what_the_server_itself_refuses_is_in_that_form_too(served: Served) -> None:
    status, _, content = served.get("/v1/embeddings", b"no JSON")
    assert (status, json.loads(content)["error"]["type"]) == (400, "invalid_request_error")
    status, headers, content = served.get("/v1/embeddings")
    assert (status, headers["allow"], json.loads(content)["error"]["code"]) == (405, "POST", None)
    status, _, content = served.get("/v1/chat/completions", b"{}")
    assert (status, json.loads(content)["error"]["type"]) == (404, "invalid_request_error")
    status, _, content = served.get("/v1/embeddings", json.dumps(GOOD).encode(), **{"Content-Encoding": "gzip"})
    assert (status, json.loads(content)["error"]["type"]) == (415, "invalid_request_error")


def test_the_protocol_itself_is_as_it_was(served: Served) -> None:
    status, _, content = served.get("/v2/models/nobody")
    assert (status, json.loads(content).keys()) == (404, {"error"})
