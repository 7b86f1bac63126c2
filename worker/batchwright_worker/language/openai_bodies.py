"""Bodies of OpenAI's calls: POST /v1/embeddings, GET /v1/models. Pure."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from batchwright_worker.inference.requests import Array
from batchwright_worker.language.errors import BadCall

MOST_TEXTS: Final = 2048
"""Of a request, as OpenAI has it."""
FORMATS: Final = ("float", "base64")
_AT_ONCE: Final = 16_384
"""Numbers that are written in one go: about a millisecond."""
T = TypeVar("T")


class EmbeddingsBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/embeddings. `timeout` (microseconds) and `priority` are the Open Inference Protocol's."""

    model: str
    input: str | list[str | int | list[int]]
    encoding_format: str | None = None
    dimensions: int | None = None
    user: str | None = None
    timeout: int = 0
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingsCall:
    """What is asked for: of `texts`, or of `ids` where these are given."""

    body: EmbeddingsBody
    texts: list[str]
    ids: list[list[int]]


def embeddings_call(content: bytes) -> EmbeddingsCall:
    """Raises BadCall."""
    body = decoded(content, EmbeddingsBody, '{"model": "NAME", "input": ["a text"]}')
    if body.encoding_format not in (None, *FORMATS):
        raise BadCall(
            f"encoding_format is {' or '.join(FORMATS)}, not {body.encoding_format!r}", param="encoding_format"
        )
    given: Sequence[object] = [body.input] if isinstance(body.input, str) else body.input
    if not given:
        raise BadCall("input is empty: send at least one text", param="input")
    if all(isinstance(each, int) for each in given):
        given = [given]  # one text as tokens
    check_count(given, "input")
    texts = [each for each in given if isinstance(each, str)]
    ids = [each for each in given if isinstance(each, list)]
    if len(texts) != len(given) and len(ids) != len(given):
        raise BadCall("input has texts and tokens: send either in one request", param="input")
    if not all(texts) or not all(ids):
        raise BadCall("input has an empty text: leave it out", param="input")
    return EmbeddingsCall(body=body, texts=texts, ids=ids)


def check_count(given: Sequence[object], param: str) -> None:
    """Raises BadCall for too many texts."""
    if len(given) > MOST_TEXTS:
        raise BadCall(
            f"{param} has {len(given)} texts: at most {MOST_TEXTS} are taken; send several requests", param=param
        )


def decoded(content: bytes, kind: type[T], example: str) -> T:
    """Raises BadCall, which names the field."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        text, _, path = str(error).partition(" - at `$")
        param = path.rstrip("`").lstrip(".").partition("[")[0] or _named(text)
        raise BadCall(f"the body is not what is wanted: {error}; send {example}", param=param) from error


def _named(text: str) -> str | None:
    """The field in a sentence such as "Object missing required field `model`"."""
    parts = text.split("`")
    return parts[1] if len(parts) == 3 else None


def embeddings_response(
    model: str, vectors: Array, tokens: int, encoding: str | None, breathe: Callable[[], None]
) -> bytes:
    """Of FP32 [n, d]; `breathe` is called now and then, where it takes long."""
    rows = max(1, _AT_ONCE // max(1, vectors.shape[1]))
    written = []
    for number, vector in enumerate(vectors):
        if number % rows == rows - 1:
            breathe()
        written.append(b'{"object":"embedding","index":%d,"embedding":%b}' % (number, _written(vector, encoding)))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return b'{"object":"list","data":[%b],"model":%b,"usage":%b}' % (
        b",".join(written), msgspec.json.encode(model), msgspec.json.encode(usage)
    )  # fmt: skip


def _written(vector: Array, encoding: str | None) -> bytes:
    if encoding == "base64":
        return b'"%b"' % base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes())
    return msgspec.json.encode(vector.tolist())


def model_entry(name: str, created: int) -> dict[str, Any]:
    """One of GET /v1/models."""
    return {"id": name, "object": "model", "created": created, "owned_by": "batchwright"}
