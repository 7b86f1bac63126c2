"""The way of a call with texts: read, tokens in a thread, rows into the model's queue, vectors or scores out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeVar

import numpy as np

from batchwright_worker.api.text_task import TaskType
from batchwright_worker.engine.engine import Engine
from batchwright_worker.inference.errors import ModelFailed, UnknownModel
from batchwright_worker.inference.requests import Array, InferRequest, InferResult
from batchwright_worker.language.cohere_bodies import RerankCall, rerank_call, rerank_response
from batchwright_worker.language.errors import BadCall
from batchwright_worker.language.openai_bodies import EmbeddingsCall, embeddings_call, embeddings_response
from batchwright_worker.language.rows import TextRows, Tokens, rows_of
from batchwright_worker.language.tensors import TextTensors, text_tensors
from batchwright_worker.language.text_model import TextModel
from batchwright_worker.language.vectors import cosines, pooled, scores, unit
from batchwright_worker.protocol.catalogue import Catalogue
from batchwright_worker.protocol.parameters import deadline_of, priority_of
from batchwright_worker.protocol.request_memory import HeldBytes, RequestMemory

SMALL_BYTES: Final = 16 << 10
"""Bodies up to here are read at once, and do not stand behind larger ones."""
SMALL_ELEMENTS: Final = 20_000
"""Numbers up to here are made and written at once."""
_PIECE_ELEMENTS: Final = 2 << 20
"""Numbers of an output with a vector of each token that one request may ask for: it is reduced as it comes, so that
such outputs do not pile up here."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Work:
    """Of one call for one model. `tokens` is their number over all texts."""

    model: TextModel
    tensors: TextTensors
    rows: list[TextRows]
    tokens: int
    texts: int


@dataclass(frozen=True, slots=True)
class Terms:
    """When a call came, until when it has to be answered, and its priority, all on the engine's clock."""

    arrival: float
    deadline: float | None
    priority: int


class TextService:
    """The models with a task. Use it from the engine's event loop."""

    def __init__(
        self, engine: Engine, catalogue: Catalogue, models: Mapping[str, TextModel], memory: RequestMemory
    ) -> None:
        self.models = models
        self.clock = engine.clock
        self._engine = engine
        self._catalogue = catalogue
        self._memory = memory
        self._quick = ThreadPoolExecutor(1, "texts")
        self._large = ThreadPoolExecutor(1, "large-texts")

    def close(self) -> None:
        """End the threads."""
        for pool in (self._quick, self._large):
            pool.shutdown(wait=False, cancel_futures=True)

    async def embeddings(self, content: bytes, arrival: float, patience_s: float | None) -> bytes:
        """The body of the answer. Raises BadCall, TaskUnusable, InferenceError."""
        call = await self._read(embeddings_call, content)
        model = self._model(call.body.model, "Embedding")
        terms = _terms(arrival, call.body.timeout, call.body.priority, patience_s)
        tensors = self._tensors(model)
        work = await self._threaded(len(content), partial(_embeddings_work, model, tensors, call))
        vectors = _cut(await self._answers(work, terms), call, model)
        breathe = _no_rest if vectors.size <= SMALL_ELEMENTS else _rest
        write = partial(embeddings_response, model.name, vectors, work.tokens, call.body.encoding_format, breathe)
        return write() if vectors.size <= SMALL_ELEMENTS else await self._in(self._large, write)

    async def rerank(self, content: bytes, arrival: float, patience_s: float | None, version: str) -> bytes:
        """As `embeddings`."""
        call = await self._read(rerank_call, content)
        model = self._model(call.body.model, "Rerank")
        terms = _terms(arrival, call.body.timeout, call.body.priority, patience_s)
        tensors = self._tensors(model)
        work = await self._threaded(len(content), partial(_rerank_work, model, tensors, call))
        answers = await self._answers(work, terms)
        found = cosines(answers[0], answers[1:]) if model.task.type == "Embedding" else answers
        return rerank_response(call, found, work.tokens, version)

    # --- models ---

    def _model(self, name: str, wanted: TaskType) -> TextModel:
        """Raises UnknownModel, BadCall."""
        self._catalogue.check_name(name)
        model = self.models.get(name)
        if model is None:
            raise UnknownModel(
                f"model {name} has no task in the manifest: it is served with tensors, at /v2/models/{name}"
            )
        if model.task.type != wanted and not (wanted == "Rerank" and model.task.rerank_by_cosine):
            remedy = "; task.rerankByCosine: true would serve it" if wanted == "Rerank" else ""
            raise BadCall(f"the task of model {name} is {model.task.type}, not {wanted}{remedy}", param="model")
        return model

    def _tensors(self, model: TextModel) -> TextTensors:
        """Raises ModelUnavailable before the first load, TaskUnusable."""
        self._catalogue.check(model.name)
        return text_tensors(self._engine.model_metadata(model.name), model.task, model.files)

    # --- threads ---

    async def _read(self, read: Callable[[bytes], T], content: bytes) -> T:
        return read(content) if len(content) <= SMALL_BYTES else await self._in(self._large, partial(read, content))

    async def _threaded(self, size: int, make: Callable[[], T]) -> T:
        return await self._in(self._quick if size <= SMALL_BYTES else self._large, make)

    @staticmethod
    async def _in(pool: ThreadPoolExecutor, make: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, make)

    # --- rows ---

    async def _answers(self, work: Work, terms: Terms) -> Array:
        """FP32 [texts, d] of vectors, [texts] of scores. Raises InferenceError."""
        held = HeldBytes(self._memory, sum(rows.nbytes for rows in work.rows))
        running = [asyncio.ensure_future(self._answer(work, rows, terms)) for rows in work.rows]
        try:
            parts = await asyncio.gather(*running)
        except BaseException:
            for each in running:
                each.cancel()
            raise
        finally:
            held.release()
        answers = np.empty((work.texts, *parts[0].shape[1:]), np.float32)
        for rows, part in zip(work.rows, parts, strict=True):
            answers[list(rows.texts)] = part
        if not np.isfinite(answers).all():
            raise ModelFailed(f"the answer of model {work.model.name} is not a finite number for every text")
        return answers

    async def _answer(self, work: Work, rows: TextRows, terms: Terms) -> Array:
        result = await self._engine.infer(
            InferRequest(
                model=work.model.name,
                inputs=rows.inputs,
                rows=len(rows.texts),
                arrival=terms.arrival,
                deadline=terms.deadline,
                priority=terms.priority,
                outputs=(work.tensors.output,),
            )
        )
        reduce = partial(_reduced, work, rows, result)
        return (
            reduce()
            if result.outputs[work.tensors.output].size <= SMALL_ELEMENTS
            else await self._in(self._large, reduce)
        )


def _terms(arrival: float, timeout: int, priority: int, patience_s: float | None) -> Terms:
    """`patience_s`: so long the client itself waits. Raises BadInput."""
    deadlines = [deadline_of(timeout, arrival), None if patience_s is None else arrival + patience_s]
    return Terms(
        arrival=arrival,
        deadline=min((each for each in deadlines if each is not None), default=None),
        priority=priority_of({"priority": priority}),
    )


# --- in a thread ---


def _embeddings_work(model: TextModel, tensors: TextTensors, call: EmbeddingsCall) -> Work:
    """Raises BadCall."""
    tokens = model.tokens_of_ids(call.ids, "input") if call.ids else model.tokens_of_texts(call.texts, "input")
    return _work(model, tensors, tokens)


def _rerank_work(model: TextModel, tensors: TextTensors, call: RerankCall) -> Work:
    """Of pairs; of the query and then the documents where vectors are compared. Raises BadCall."""
    documents, most = call.documents, call.body.max_tokens_per_doc
    if most is not None:
        documents = model.shortened(documents, most)
    if model.task.type == "Rerank":
        return _work(model, tensors, model.tokens_of_pairs(call.body.query, documents))
    query = model.tokens_of_texts([call.body.query], "query", model.prompt("query"))
    others = model.tokens_of_texts(documents, "documents", model.prompt("document", "passage", "corpus"))
    return _work(model, tensors, [*query, *others])


def _work(model: TextModel, tensors: TextTensors, tokens: Sequence[Tokens]) -> Work:
    rows = rows_of(tokens, tensors, model.tokenizer.filler, model.max_tokens)
    most = max(1, _PIECE_ELEMENTS // tensors.row_elements) if tensors.per_token else len(tokens)
    return Work(model, tensors, list(_pieces(rows, most)), sum(len(each.ids) for each in tokens), len(tokens))


def _pieces(rows: Iterable[TextRows], most: int) -> Iterable[TextRows]:
    for each in rows:
        for first in range(0, len(each.texts), most):
            part = slice(first, first + most)
            inputs = {name: array[part] for name, array in each.inputs.items()}
            yield replace(each, texts=each.texts[part], inputs=inputs, mask=each.mask[part])


def _reduced(work: Work, rows: TextRows, result: InferResult) -> Array:
    """Vectors [n, d] or scores [n]."""
    task, files, output = work.model.task, work.model.files, result.outputs[work.tensors.output]
    if task.type == "Rerank":
        assert files.activation is not None
        return scores(output, files.activation)
    if work.tensors.per_token:
        assert files.pooling is not None
        output = pooled(output, rows.mask, files.pooling)
    return unit(output.astype(np.float32, copy=False)) if files.normalize else output.astype(np.float32, copy=False)


def _cut(vectors: Array, call: EmbeddingsCall, model: TextModel) -> Array:
    """To the wanted dimensions. Raises BadCall."""
    whole, wanted = vectors.shape[1], call.body.dimensions
    if wanted is None or wanted == whole:
        return vectors
    allowed = sorted(each for each in {*model.task.dimensions, whole} if each <= whole)
    if wanted not in allowed:
        raise BadCall(
            f"dimensions is {wanted}: model {model.name} gives {', '.join(map(str, allowed))}; it was not trained to "
            "be cut to another length",
            param="dimensions",
        )
    short = np.ascontiguousarray(vectors[:, :wanted])
    return unit(short) if model.files.normalize else short


def _rest() -> None:
    """Let the event loop have the interpreter's lock."""
    time.sleep(0.0001)


def _no_rest() -> None:
    """It is soon done."""
