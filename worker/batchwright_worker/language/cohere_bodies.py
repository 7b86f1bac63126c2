"""Bodies of Cohere's rerank calls, versions 1 and 2. Pure."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import msgspec

from batchwright_worker.inference.requests import Array
from batchwright_worker.language.errors import BadCall
from batchwright_worker.language.openai_bodies import check_count, decoded


class DocumentBody(msgspec.Struct):
    """A document as an object; other fields stay the caller's."""

    text: str


class RerankBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/rerank and /v2/rerank. `timeout` and `priority` as in `EmbeddingsBody`."""

    model: str
    query: str
    documents: list[str | DocumentBody]
    top_n: int | None = None
    return_documents: bool = False
    max_tokens_per_doc: int | None = None
    rank_fields: list[str] | None = None
    max_chunks_per_doc: int | None = None
    timeout: int = 0
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankCall:
    """What is asked for."""

    body: RerankBody
    documents: list[str]


def rerank_call(content: bytes) -> RerankCall:
    """Raises BadCall."""
    body = decoded(content, RerankBody, '{"model": "NAME", "query": "a text", "documents": ["a text"]}')
    documents = [each if isinstance(each, str) else each.text for each in body.documents]
    check_count(documents, "documents")
    if not body.query or not documents or not all(documents):
        param = "documents" if body.query else "query"
        raise BadCall("query and documents are needed, none of them empty", param=param)
    for name in ("top_n", "max_tokens_per_doc"):
        if (value := getattr(body, name)) is not None and value < 1:
            raise BadCall(f"{name} is {value}: at least 1", param=name)
    if body.rank_fields not in (None, ["text"]):
        raise BadCall("rank_fields: documents are ranked by their field text alone", param="rank_fields")
    if body.max_chunks_per_doc is not None:
        raise BadCall(
            "max_chunks_per_doc: documents are not cut into pieces here; send pieces as documents of their own, or "
            "max_tokens_per_doc to have each cut short",
            param="max_chunks_per_doc",
        )
    return RerankCall(body=body, documents=documents)


def rerank_response(call: RerankCall, scores: Array, tokens: int, version: str) -> bytes:
    """The best first; of equal ones the earlier."""
    best = sorted(range(len(scores)), key=lambda number: (-float(scores[number]), number))[: call.body.top_n]
    results: list[dict[str, Any]] = [{"index": number, "relevance_score": float(scores[number])} for number in best]
    if call.body.return_documents:
        for each in results:
            each["document"] = {"text": call.documents[each["index"]]}
    meta = {"api_version": {"version": version}, "tokens": {"input_tokens": tokens}}
    return msgspec.json.encode({"id": str(uuid.uuid4()), "model": call.body.model, "results": results, "meta": meta})
