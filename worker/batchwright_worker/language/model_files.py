"""What the files beside a model say of how texts go in and vectors or scores come out.

They are those of sentence-transformers: modules.json (Pooling, Normalize), 1_Pooling/config.json,
sentence_bert_config.json and tokenizer_config.json (longest texts), config_sentence_transformers.json (prompts); and of
a cross-encoder config.json. What the manifest says goes before them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from batchwright_worker.api.text_task import Activation, Pooling, TextTask

TOKENIZER: Final = "tokenizer.json"
_NO_LIMIT: Final = 1_000_000
"""What is above means none: transformers writes 1e30."""
_LARGEST_BYTES: Final = 256 << 20
_POOLINGS: Final[Mapping[str, Pooling]] = {
    "pooling_mode_cls_token": "Cls",
    "pooling_mode_mean_tokens": "Mean",
    "pooling_mode_max_tokens": "Max",
    "pooling_mode_lasttoken": "LastToken",
}
_NEWER_POOLINGS: Final[Mapping[str, Pooling]] = {"cls": "Cls", "mean": "Mean", "max": "Max", "lasttoken": "LastToken"}
Json = dict[str, Any]


class TaskFilesError(Exception):
    """The files do not say what is needed; the message says which, and what to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFiles:
    """`max_tokens` with the special ones. `pooling` is None where nothing says it, `other_modules` are those behind the
    network that no export of its token vectors has. `prompts` by name; `default_prompt` stands before every text."""

    tokenizer: Path
    max_tokens: int
    pooling: Pooling | None = None
    normalize: bool = False
    other_modules: tuple[str, ...] = ()
    activation: Activation | None = None
    lower: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str = ""


def read_files(model: Path, task: TextTask) -> TextFiles:
    """Of the model at this path, a file or a folder. Raises TaskFilesError."""
    folder = _folder(model)
    own, tokenizer = _json(folder, "sentence_bert_config.json"), _json(folder, "tokenizer_config.json")
    modules = _modules(folder)
    prompts, default_prompt = _prompts(folder)
    pooling = task.pooling or _pooling(folder, modules)
    if default_prompt and _pools_without_prompt(folder, modules):
        raise TaskFilesError(f"{folder}: 1_Pooling/config.json leaves the prompt out of the mean; that is not served")
    return TextFiles(
        tokenizer=folder / TOKENIZER,
        max_tokens=task.max_tokens or _max_tokens(folder, own, tokenizer),
        pooling=pooling,
        normalize="Normalize" in modules if task.normalize is None else task.normalize,
        other_modules=tuple(name for name in modules if name not in ("Transformer", "Pooling", "Normalize")),
        activation=task.activation or (_activation(folder) if task.type == "Rerank" else None),
        lower=own.get("do_lower_case") is True,
        prompts=prompts,
        default_prompt=default_prompt,
    )


def _folder(model: Path) -> Path:
    """The folder that the tokenizer is in: the model's own, or the one above a folder `onnx`, as the hub has them."""
    own = model if model.is_dir() else model.parent
    tried = [own, own.parent] if own.name == "onnx" else [own]
    for each in tried:
        if (each / TOKENIZER).is_file():
            return each
    raise TaskFilesError(
        f"task: there is no {TOKENIZER} in {' or '.join(map(str, tried))}: put it beside the model, and let the "
        "artifact's uri be the folder (ending in /) where it is fetched"
    )


def _json(folder: Path, name: str) -> Json:
    """{} where there is no such file."""
    found = _decoded(folder, name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise TaskFilesError(f"{folder / name} is no JSON object")
    return found


def _decoded(folder: Path, name: str) -> object:
    path = folder / name
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise TaskFilesError(f"{path} is larger than {_LARGEST_BYTES} bytes")
        found: object = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise TaskFilesError(f"{path} cannot be read: {error}") from error
    return found


def _modules(folder: Path) -> dict[str, str]:
    """Kind of module -> its folder, in their order."""
    listed = _decoded(folder, "modules.json")
    if listed is None:
        return {}
    try:
        entries = msgspec.convert(listed, list[dict[str, Any]])
        return {str(each["type"]).rsplit(".", 1)[-1]: str(each.get("path", "")) for each in entries}
    except (msgspec.ValidationError, KeyError) as error:
        raise TaskFilesError(f"{folder / 'modules.json'} is no list of modules: {error!r}") from error


def _pooling_config(folder: Path, modules: Mapping[str, str]) -> Json:
    path = modules.get("Pooling", "1_Pooling")
    return {} if ".." in path else _json(folder, f"{path}/config.json")


def _pooling(folder: Path, modules: Mapping[str, str]) -> Pooling | None:
    config = _pooling_config(folder, modules)
    named = config.get("pooling_mode")
    found = [named] if isinstance(named, str) else [name for name, on in config.items() if _is_mode(name) and on]
    if not found:
        return None
    known = (_NEWER_POOLINGS if named else _POOLINGS).get(found[0])
    if len(found) > 1 or known is None:
        raise TaskFilesError(
            f"{folder}: the pooling {', '.join(found)} is not served: export the model with its pooling, so that its "
            f"output is one vector of each text; served are {', '.join(_POOLINGS)}"
        )
    return known


def _is_mode(name: str) -> bool:
    return name.startswith("pooling_mode_")


def _pools_without_prompt(folder: Path, modules: Mapping[str, str]) -> bool:
    return _pooling_config(folder, modules).get("include_prompt", True) is False


def _max_tokens(folder: Path, own: Json, tokenizer: Json) -> int:
    truncation = _json(folder, TOKENIZER).get("truncation") or {}
    told = (own.get("max_seq_length"), tokenizer.get("model_max_length"), truncation.get("max_length"))
    if (found := _first_limit(told)) is not None:
        return found
    raise TaskFilesError(
        f"task: no file in {folder} says how long a text may be (sentence_bert_config.json, tokenizer_config.json, "
        f"{TOKENIZER}): write task.maxTokens"
    )


def _first_limit(told: Iterable[object]) -> int | None:
    return next((int(each) for each in told if isinstance(each, int | float) and 0 < each < _NO_LIMIT), None)


def _prompts(folder: Path) -> tuple[dict[str, str], str]:
    config = _json(folder, "config_sentence_transformers.json")
    try:
        prompts = msgspec.convert(config.get("prompts") or {}, dict[str, str])
    except msgspec.ValidationError as error:
        raise TaskFilesError(f"{folder}: prompts of config_sentence_transformers.json: {error}") from error
    default = config.get("default_prompt_name")
    return prompts, prompts.get(str(default), "")


def _activation(folder: Path) -> Activation:
    """As sentence-transformers' CrossEncoder takes it from config.json."""
    config = _json(folder, "config.json")
    newer = config.get("sentence_transformers") or {}
    named = newer.get("activation_fn") or config.get("sbert_ce_default_activation_function")
    kind = str(named).rsplit(".", 1)[-1]
    if kind in ("Sigmoid", "Identity"):
        return cast(Activation, kind)
    if named:
        raise TaskFilesError(
            f"{folder}: the activation {named} is not served; write task.activation: Sigmoid or Identity"
        )
    labels = config.get("num_labels") or len(config.get("id2label") or ())
    if labels == 1:
        return "Sigmoid"
    raise TaskFilesError(
        f"task: config.json in {folder} does not say what makes the output a score: write task.activation: Sigmoid or "
        "Identity"
    )
