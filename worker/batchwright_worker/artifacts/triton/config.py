"""config.pbtxt of a model in a Triton model repository: Triton's ModelConfig in protobuf's text format."""

from __future__ import annotations

import json
from collections.abc import MutableSequence
from pathlib import Path
from typing import Any, Final

from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor

from batchwright_worker.artifacts.names import ArtifactError
from batchwright_worker.oip import inference_pb2 as pb

CONFIG: Final = "config.pbtxt"
_LARGEST: Final = 4 << 20


def read_config(folder: Path) -> pb.ModelConfig:
    """Of the model in this folder; empty where it has none, as Triton lets it be. Raises ArtifactError, which says line
    and column, for what is no ModelConfig."""
    file = folder / CONFIG
    if not file.is_file():
        return pb.ModelConfig()
    try:
        if file.stat().st_size > _LARGEST:
            raise ArtifactError(f"{file} is larger than {_LARGEST} bytes: no configuration of a model")
        parsed: pb.ModelConfig = text_format.Parse(file.read_text(encoding="utf-8"), pb.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError, OSError) as error:
        raise ArtifactError(f"{file}: {error}") from error
    return parsed


def config_json(config: pb.ModelConfig) -> str:
    """As Triton hands it to Python models: the message's own names, enums as words, every number a number."""
    return json.dumps(_plain(config))


def _plain(message: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            of_messages = field.message_type.fields_by_name["value"].message_type is not None
            found[field.name] = {key: _plain(value[key]) if of_messages else value[key] for key in value}
        elif isinstance(value, MutableSequence):
            found[field.name] = [_element(field, each) for each in value]
        elif not field.has_presence or message.HasField(field.name):
            found[field.name] = _element(field, value)
    return found


def _element(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None:
        return _plain(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value
