"""The no-op model behind Mosec, for `e2e.bench.noop`; runs in Mosec's own environment, so it imports nothing of ours.

Mosec does not hand headers to its workers: the JSON part of a body ends at its first line feed.
"""

from typing import Any

import msgspec
import numpy as np
from mosec import Server, Worker


class Input(msgspec.Struct):
    """One input of the request."""

    name: str
    datatype: str
    shape: list[int]


class Request(msgspec.Struct):
    """The JSON part."""

    inputs: list[Input]


_DECODER = msgspec.json.Decoder(Request)
_HEADER = b'{"model_name":"noop","outputs":[{"name":"argmax","datatype":"INT64","shape":[1,1],"binary_data_size":8}]}\n'


class Noop(Worker):  # type: ignore[misc]
    """Parses, batches, answers one number per row."""

    def deserialize(self, data: bytes) -> Any:
        """The tensor, as a view of the body."""
        end = data.index(b"\n") + 1
        asked = _DECODER.decode(data[:end]).inputs[0]
        return np.frombuffer(data, np.float32, offset=end).reshape(asked.shape)

    def forward(self, data: list[Any]) -> list[int]:
        """Nothing is computed."""
        return [0] * len(data)

    def serialize(self, data: int) -> bytes:
        """A binary answer."""
        return _HEADER + data.to_bytes(8, "little")


if __name__ == "__main__":
    server = Server()
    server.append_worker(Noop, max_batch_size=32, max_wait_time=1)
    server.run()
