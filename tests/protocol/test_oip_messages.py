"""The generated messages are what inference.proto gives, and are the protocol's on the wire."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from google.protobuf.descriptor import Descriptor
from tritonclient.grpc import model_config_pb2, service_pb2

from batchwright_worker.oip import generate, inference_pb2
from batchwright_worker.oip.datatypes import DATATYPES, name_of, numpy_of


def test_the_committed_modules_are_what_the_proto_file_gives() -> None:
    for name, text in generate.render().items():
        assert (generate._HERE / name).read_text() == text, f"{name} is stale: run make generate"


def messages(types: dict[str, Descriptor], prefix: str = "") -> Iterator[tuple[str, Descriptor]]:
    for name, descriptor in types.items():
        yield prefix + name, descriptor
        yield from messages(descriptor.nested_types_by_name, f"{prefix}{name}.")


def test_every_message_agrees_with_tritons_own_definition() -> None:
    theirs = dict(messages(service_pb2.DESCRIPTOR.message_types_by_name))
    theirs |= dict(messages(model_config_pb2.DESCRIPTOR.message_types_by_name))
    ours = dict(messages(inference_pb2.DESCRIPTOR.message_types_by_name))
    assert len(ours) > 40
    for name, descriptor in ours.items():
        for field in descriptor.fields:
            other = theirs[name].fields_by_name[field.name]
            assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_datatypes_map_to_numpy_and_back(datatype: str) -> None:
    dtype = numpy_of(datatype)
    assert dtype is not None
    assert name_of(dtype) == datatype


def test_what_the_protocol_lacks_is_refused() -> None:
    assert numpy_of("FP8") is None
    with pytest.raises(ValueError, match="complex64"):
        name_of(np.dtype(np.complex64))
