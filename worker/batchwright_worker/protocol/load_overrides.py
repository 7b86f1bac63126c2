"""What a call that loads a model may say of its configuration: bounds of batches, until the next load.

Triton's clients hand a whole model configuration over (`config`). Taken of it is what a model takes over as it is
served; everything else is the ModelDeployment's, and refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from google.protobuf.json_format import Parse, ParseError

from batchwright_worker.api.model import Batching, Model
from batchwright_worker.api.rules.model import RULES
from batchwright_worker.inference.errors import BadInput
from batchwright_worker.oip import inference_pb2 as pb
from batchwright_worker.protocol.catalogue import Catalogue

_TAKEN: Final = (
    "max_batch_size, dynamic_batching.max_queue_delay_microseconds and "
    "dynamic_batching.default_queue_policy.max_queue_size"
)


def take_overrides(catalogue: Catalogue, name: str, parameters: Mapping[str, Any]) -> None:
    """Of a call that loads this model: without any it has the manifest's bounds again. Raises BadInput."""
    for parameter in parameters:
        if parameter.startswith("file:"):
            raise _refused(name, f"parameter {parameter[:80]!r}: a model's files are those of its artifact")
        if parameter != "config":
            raise _refused(name, f"parameter {parameter[:80]!r} is not known: there is 'config'; leave it out")
    if "config" in parameters:
        catalogue.override(name, _overridden(catalogue, catalogue.declared(name), parameters["config"]))
    else:
        catalogue.restore(name)


def _overridden(catalogue: Catalogue, model: Model, text: Any) -> Model:
    if not isinstance(text, str) or text.lstrip()[:1] != "{":  # of other JSON the parser makes an empty message
        raise _refused(model.name, f"parameter 'config' is no model configuration: {_kind(text)} is no JSON object")
    try:
        config = Parse(text, pb.ModelConfig())
    except (ParseError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise _refused(model.name, f"parameter 'config' is no model configuration: {error}") from error
    changes: dict[str, int] = {}
    for field, value in config.ListFields():
        if field.name == "max_batch_size":
            changes["max_size"] = value
        elif field.name == "dynamic_batching":
            changes |= _of_dynamic_batching(model.name, value)
        elif field.name != "name" or value != model.name:
            raise _refused(model.name, f"config.{field.name}: it is the ModelDeployment's; taken are {_TAKEN}")
    if changes and catalogue.engine.model_metadata(model.name).max_batch_size == 0:
        raise _refused(model.name, "config: its requests are run whole, so there are no batches to bound")
    return msgspec.structs.replace(model, batching=_checked(model, changes))


def _of_dynamic_batching(name: str, given: pb.ModelDynamicBatching) -> dict[str, int]:
    changes: dict[str, int] = {}
    for field, value in given.ListFields():
        if field.name == "max_queue_delay_microseconds":
            changes["max_queue_delay_milliseconds"] = value // 1000
        elif field.name == "default_queue_policy" and [each.name for each, _ in value.ListFields()] == [
            "max_queue_size"
        ]:
            changes["max_queue_length"] = value.max_queue_size
        else:
            raise _refused(name, f"config.dynamic_batching.{field.name}: it is not taken; taken are {_TAKEN}")
    return changes


def _checked(model: Model, changes: Mapping[str, int]) -> Batching:
    """Held against the schema and its rules, as a manifest is."""
    wanted = msgspec.structs.replace(model.batching, **changes)
    try:
        batching = msgspec.convert(msgspec.to_builtins(wanted), Batching)
    except msgspec.ValidationError as error:
        raise _refused(model.name, f"config: batching: {error}") from error
    for rule in RULES:
        if rule.on is Batching and not rule.at and not rule.holds(batching):
            raise _refused(model.name, f"config: batching.{rule.names}: {rule.message}")
    return batching


def _kind(value: object) -> str:
    return f"{value[:40]!r}" if isinstance(value, str) else f"a {type(value).__name__}"


def _refused(name: str, why: str) -> BadInput:
    return BadInput(f"failed to load {name!r}: {why}")
