"""Mosec with one worker, as its documentation writes it.

    BENCH_PEER_MODEL=JSON python -m e2e.bench.peers.mosec_app --port PORT

POST /inference with the raw row as body; the answer's body is the raw output row.
"""

from __future__ import annotations

from mosec import Server, Worker

from e2e.bench.peers.model import described, forward_of


class Device(Worker):  # type: ignore[misc]
    """Bytes in, bytes out: no decoding that the others do not have."""

    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        super().__init__()
        self._forward = forward_of(described())

    def deserialize(self, data: bytes) -> bytes:
        """The row as it came."""
        return data

    def serialize(self, data: bytes) -> bytes:
        """The row as it goes."""
        return data

    def forward(self, data: list[bytes] | bytes) -> list[bytes] | bytes:
        """A batch; a single row where max_size is 1."""
        return self._forward(data) if isinstance(data, list) else self._forward([data])[0]


if __name__ == "__main__":
    model = described()
    server = Server()
    server.append_worker(Device, num=1, max_batch_size=model.max_size, max_wait_time=model.max_wait_ms)
    server.run()
