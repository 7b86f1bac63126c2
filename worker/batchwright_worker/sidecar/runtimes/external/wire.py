"""A batch as one Open Inference request to an external server, and the server's response as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import BatchFailed, TensorSpec
from batchwright_worker.oip.datatypes import RAW_ONLY, name_of
from batchwright_worker.oip.http_tensors import BadTensorError, HttpInferResponse, HttpMetadata, array_of, raw_of
from batchwright_worker.texts import presentable

Parts = Sequence[Mapping[str, Array]]
_OUT_OF_MEMORY = ("out of memory", "outofmemory", "failed to allocate", "bad_alloc", "cannot allocate memory")


class ServerRefusedError(Exception):
    """The server has answered with an error; `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(presentable(message))
        self.status = status

    @property
    def too_large(self) -> bool:
        """Would a smaller batch do? Its body is too long (413), or the text says that memory ran out (there is no
        status for that)."""
        text = str(self).lower()
        return self.status == 413 or any(words in text for words in _OUT_OF_MEMORY)


def binary_request(parts: Parts, rows: int) -> tuple[bytes, list[bytes | memoryview]]:
    """JSON header, and what follows it: each input's parts one after the other, which is their concatenation."""
    header: dict[str, Any] = {"inputs": [], "parameters": {"binary_data_output": True}}
    tensors: list[bytes | memoryview] = []
    for name, first in parts[0].items():
        datatype = name_of(first.dtype)
        raw = [raw_of(datatype, part[name]) for part in parts]
        tensors += raw
        parameters = {"binary_data_size": sum(len(each) for each in raw)}
        header["inputs"].append(_described(name, datatype, rows, first) | {"parameters": parameters})
    return msgspec.json.encode(header), tensors


def json_request(parts: Parts, rows: int) -> bytes:
    """For servers without the binary extension. Raises BatchFailed for datatypes that JSON cannot carry."""
    inputs = []
    for name, first in parts[0].items():
        datatype = name_of(first.dtype)
        if datatype in RAW_ONLY:
            raise BatchFailed(
                f"input {name!r} is {datatype}, which travels as raw bytes only, and this server does not know the "
                "binary tensor extension: write its grpcPort in spec.runtimes"
            )
        data = [value for part in parts for value in _plain(part[name], datatype)]
        inputs.append(_described(name, datatype, rows, first) | {"data": data})
    return msgspec.json.encode({"inputs": inputs})


def outputs_of(body: bytes, header_length: int | None, rows: int) -> dict[str, Array]:
    """Raises BatchFailed for an answer that is none of this protocol or has another number of rows."""
    end = len(body) if header_length is None else header_length
    try:
        answer = msgspec.json.decode(memoryview(body)[:end], type=HttpInferResponse)
        outputs, position = {}, end
        for tensor in answer.outputs:
            outputs[tensor.name], position = array_of(tensor, body, position)
    except (msgspec.MsgspecError, BadTensorError) as error:
        raise BatchFailed(f"the server's answer cannot be read: {error}") from error
    check_rows(outputs, rows)
    return outputs


def check_rows(outputs: Mapping[str, Array], rows: int) -> None:
    """Raises BatchFailed for an output without the batch's rows in front."""
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != rows:
            raise BatchFailed(
                f"the server's output {name!r} has shape {list(array.shape)} for a batch of {rows} rows; "
                "its first dimension must be the batch: let the server batch (Triton: max_batch_size at least "
                "batching.maxSize)"
            )


def specs_of(body: bytes) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs per row, from model metadata. Raises BatchFailed."""
    try:
        metadata = msgspec.json.decode(body, type=HttpMetadata)
    except msgspec.MsgspecError as error:
        raise BatchFailed(f"the server's metadata cannot be read: {error}") from error
    inputs, outputs = (
        tuple(TensorSpec(name=one.name, datatype=one.datatype, shape=tuple(one.shape[1:])) for one in tensors or ())
        for tensors in (metadata.inputs, metadata.outputs)
    )
    return inputs, outputs


def _described(name: str, datatype: str, rows: int, first: Array) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [rows, *first.shape[1:]]}


def _plain(array: Array, datatype: str) -> list[Any]:
    flat: list[Any] = array.reshape(-1).tolist()
    if datatype != "BYTES":
        return flat
    try:
        return [element if isinstance(element, str) else bytes(element).decode() for element in flat]
    except UnicodeDecodeError as error:
        raise BatchFailed(
            f"BYTES that are no UTF-8 text need raw bytes, which this server takes over gRPC only: {error}; "
            "write its grpcPort in spec.runtimes"
        ) from error
