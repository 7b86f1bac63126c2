"""The binary tensor extension: a JSON header, then the raw bytes of the tensors one after the other.

`Inference-Header-Content-Length` says how long the JSON is; `parameters.binary_data_size` of an input (or output) says
how many of the bytes that follow are its own.
"""

from __future__ import annotations

from batchwright_worker.inference.errors import BadInput
from batchwright_worker.oip.http_tensors import HEADER_LENGTH
from batchwright_worker.protocol.limits import Limits


def split(body: bytes | memoryview, header_length: bytes | None, limits: Limits) -> tuple[memoryview, memoryview]:
    """JSON and binary part of a body; without the header all of it is JSON. Raises BadInput."""
    view = memoryview(body)
    length = len(view) if header_length is None else _parsed(header_length, len(view))
    if length > limits.json_bytes:
        raise BadInput(
            f"the JSON part has {length} bytes: wanted at most {limits.json_bytes}; "
            "send large tensors as binary data (binary_data_size)",
            wanted=f"at most {limits.json_bytes} bytes",
            given=f"{length} bytes",
        )
    return view[:length], view[length:]


class BinarySection:
    """The binary part of a body: the bytes of the inputs, in their order."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def take(self, name: str, size: object) -> memoryview:
        """The next `size` bytes. Raises BadInput if size is no length or more than is left."""
        left = len(self._view) - self._at
        if isinstance(size, bool) or not isinstance(size, int) or size < 0 or size > left:
            raise BadInput(
                f"input {name!r} has a bad binary_data_size: wanted 0 to the {left} bytes that are left "
                f"behind the JSON header, given {size!r}; make it the size of this tensor's bytes",
                input_name=name,
                wanted=f"0 to {left}",
                given=repr(size),
            )
        part = self._view[self._at : self._at + size]
        self._at += size
        return part

    def finish(self) -> None:
        """Raises BadInput if bytes are left that no input claims."""
        left = len(self._view) - self._at
        if left:
            raise BadInput(
                f"the body has {left} bytes that no input claims: wanted binary_data_size of all inputs to add up to "
                f"{len(self._view)}, given {self._at}; correct binary_data_size or {HEADER_LENGTH}",
                wanted=str(len(self._view)),
                given=str(self._at),
            )


def _parsed(header_length: bytes, body_length: int) -> int:
    """Digits only (int() would take signs, blanks and underscores), and no more than there is."""
    text = header_length.decode("latin-1").strip()
    if not text.isascii() or not text.isdigit() or len(text) > 18 or not 0 < int(text) <= body_length:
        raise BadInput(
            f"the header {HEADER_LENGTH} is wrong: wanted the length of the JSON part, 1 to {body_length}, or 0 "
            "where the body is the only input, "
            f"given {text!r}; "
            "leave it out if the body is all JSON",
            wanted=f"1 to {body_length}",
            given=repr(text),
        )
    return int(text)
