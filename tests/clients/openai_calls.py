"""What OpenAI's and Cohere's clients get; run by the interpreter of their own environment. Prints JSON."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

import cohere
import openai


def of_openai(url: str, texts: list[str]) -> dict[str, Any]:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    whole = client.embeddings.create(model="minilm", input=texts)  # base64, as the client has it
    floats = client.embeddings.create(model="minilm", input=texts[:3], encoding_format="float")
    with ThreadPoolExecutor(8) as pool:
        alone = list(pool.map(lambda text: client.embeddings.create(model="minilm", input=text), texts))
    errors: dict[str, Any] = {}
    for name, call in {
        "unknown": {"model": "nobody", "input": "x"},
        "dimensions": {"model": "minilm", "input": "x", "dimensions": 100},
        "long": {"model": "minilm", "input": "word " * 300},
    }.items():
        try:
            client.embeddings.create(**call)
        except openai.APIStatusError as error:
            errors[name] = [type(error).__name__, error.status_code, error.code, error.param, error.message]
    return {
        "whole": [each.embedding for each in whole.data],
        "floats": [each.embedding for each in floats.data],
        "alone": [each.data[0].embedding for each in alone],
        "usage": [whole.usage.prompt_tokens, whole.usage.total_tokens],
        "models": [model.id for model in client.models.list()],
        "model": client.models.retrieve("minilm").id,
        "errors": errors,
    }


def of_cohere(url: str, texts: list[str]) -> dict[str, Any]:
    call = {"model": "minilm", "query": texts[0], "documents": texts[1:], "top_n": 3}
    newer = cohere.ClientV2("none", base_url=url).rerank(**call)
    older = cohere.Client("none", base_url=url).rerank(**call, return_documents=True)
    try:
        cohere.ClientV2("none", base_url=url).rerank(**{**call, "documents": []})
        error = ""
    except cohere.BadRequestError as refused:
        error = refused.body["message"]
    return {
        "newer": [[each.index, each.relevance_score] for each in newer.results],
        "older": [[each.index, each.relevance_score] for each in older.results],
        "documents": [each.document.text for each in older.results],
        "error": error,
    }


if __name__ == "__main__":
    url, path = sys.argv[1:]
    with open(path) as file:  # noqa: PTH123
        texts = json.load(file)
    told = {"versions": [version("openai"), version("cohere")], "openai": of_openai(url, texts)}
    print(json.dumps({**told, "cohere": of_cohere(url, texts)}))
