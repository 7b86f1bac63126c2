"""An inference request and its result."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import msgspec
from numpy.typing import NDArray

Array = NDArray[Any]


class RequestTemplate:
    """A template that many requests share: all with the same one have inputs of the same names, datatypes and shapes,
    and want the same outputs. So the engine checks the first of them only, and keeps here by which signature."""

    __slots__ = ("bucket", "checked", "rows")

    def __init__(self) -> None:
        self.checked: object = None
        self.bucket: Hashable = ()
        self.rows = 1


class InferRequest(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One call: every array of `inputs` has the same leading batch dimension, `rows` (>= 1), except those that the
    model's signature says are not batched. A front end knows no signature and takes the first one for the rows; the
    engine sets it right.

    `arrival` is when the request was there to be served; `deadline` is the caller's own (both on the engine's clock).
    A lower `priority` is served earlier (Triton's sense); 0 is the default and counts as the middle of all.
    `outputs` names the wanted outputs, empty for all.
    """

    model: str
    inputs: Mapping[str, Array]
    rows: int
    arrival: float
    deadline: float | None = None
    priority: int = 0
    request_id: str = ""
    outputs: tuple[str, ...] = ()
    template: RequestTemplate | None = None


class InferResult(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Outputs with `rows` as leading dimension, in the order of the request's rows.

    `batch_size` is the number of rows of the batch that the request ran in (the largest if it was split),
    `queue_ms` from arrival to the start of its first batch, `run_ms` from there to the answer. `shared` is the same
    dictionary for all requests that the same batch answered whole: a front end keeps there what their answers share.
    """

    outputs: Mapping[str, Array]
    batch_size: int
    queue_ms: float
    run_ms: float
    shared: dict[Any, Any] | None = None
