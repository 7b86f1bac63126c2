"""What a model does with texts, for the calls of OpenAI's and Cohere's clients; see `manifest`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from batchwright_worker.api.fields import UNIQUE, Value, doc

TaskType = Literal["Embedding", "Rerank"]
Pooling = Literal["Mean", "Cls", "Max", "LastToken"]
Activation = Literal["Sigmoid", "Identity"]


class TextTask(Value, kw_only=True, frozen=True):
    """The model takes tokens of texts. What is unset here is read from the files beside the model, as
    sentence-transformers writes them; what neither says is never guessed: the pod does not start, or a request is
    refused."""

    type: Annotated[
        TaskType,
        doc(
            "Embedding: a vector of each text (/v1/embeddings). Rerank: a score of each pair of a query and a document "
            "(/v1/rerank), by a cross-encoder. A tokenizer.json must be beside the model."
        ),
    ]
    max_tokens: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None,
        doc(
            "Most tokens of a text (or pair) with the special ones. Unset: max_seq_length of "
            "sentence_bert_config.json, else model_max_length of tokenizer_config.json, else the truncation of "
            "tokenizer.json."
        ),
    ] = None
    too_long: Annotated[
        Literal["Refuse", "Truncate"],
        doc("What becomes of a text of more tokens. Refuse: the request is 400. Truncate: its first tokens count."),
    ] = "Refuse"
    output: Annotated[
        Annotated[str, msgspec.Meta(min_length=1, max_length=128)] | None,
        doc(
            "The output with the vector, the vectors of the tokens, or the score. Unset: the only one, else "
            "sentence_embedding, last_hidden_state, token_embeddings or logits."
        ),
    ] = None
    pooling: Annotated[
        Pooling | None,
        doc(
            "How the vectors of the tokens become one: Mean, Max, Cls (the first token's), LastToken. Unset: as "
            "1_Pooling/config.json says. Not used where the output is one vector of each text already."
        ),
    ] = None
    normalize: Annotated[
        bool | None,
        doc("Are vectors scaled to length 1? Unset: as modules.json says; without that file as the model gives them."),
    ] = None
    dimensions: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=1, le=1_000_000)], ...],
        doc(
            "Lengths that the model was trained to have its vectors cut to (Matryoshka): what `dimensions` of a "
            "request may be, beside the whole length.",
            max_length=16,
            extra_json_schema=UNIQUE,
        ),
    ] = ()
    rerank_by_cosine: Annotated[
        bool,
        doc(
            "Serve /v1/rerank with an Embedding model: the score is the cosine of the query's and a document's vector."
        ),
    ] = False
    activation: Annotated[
        Activation | None,
        doc(
            "What makes a Rerank model's output the score. Unset: as config.json says (Sigmoid for a model with one "
            "label that says nothing else)."
        ),
    ] = None
