"""A replica's move to another node, as it is written on its Deployment: who reads it there need not remember. Pure.

A move makes one pod more, which is placed as any other, and takes the moved one away once that is ready.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from batchwright_operator.kube.metadata import annotation
from batchwright_operator.kube.objects import Raw
from batchwright_worker.api.names import GROUP

ANNOTATION_MOVE: Final = f"{GROUP}/move"
"""On a Deployment: JSON of `Move`."""
ANNOTATION_SURGE: Final = f"{GROUP}/surge-replicas"
"""On a Deployment: how many of its replicas are a move's, on top of its share."""
ANNOTATION_DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
FIRST_TO_GO: Final = str(-(2**31) + 1)
"""The deletion cost of the pod that a move takes away: below any that is set for another reason."""

State = Literal["Surging", "Leaving", "Done", "GivenUp"]
"""Surging: there is one pod more, until that is ready. Leaving: the moved one is to be deleted. Then it is over, and
the annotation stays for as long as nothing else of the deployment is to be moved."""


class Move(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """One pod on its way from one node to a better one."""

    pod: str
    uid: str
    source: str
    """Its node."""
    target: str
    """The node that was best when it was decided; placement decides anew."""
    state: State
    since: str
    """RFC 3339: when it came into this state."""
    began: str
    """RFC 3339: when it was decided."""
    note: str = ""
    """Why it was given up."""

    @property
    def is_over(self) -> bool:
        """Nothing is left to do but to wait."""
        return self.state in ("Done", "GivenUp")


_decode = msgspec.json.Decoder(Move).decode


def move_of(deployment: Raw) -> Move | None:
    """The move that is written on a Deployment; None without one, or with one that somebody made unreadable."""
    text = annotation(deployment, ANNOTATION_MOVE)
    try:
        return _decode(text) if text else None
    except msgspec.DecodeError:
        return None


def surge_of(deployment: Raw) -> int:
    """How many pods more than its share the Deployment is to have now."""
    move = move_of(deployment)
    return int(move is not None and move.state == "Surging")


def render(move: Move) -> str:
    """The annotation's value."""
    return msgspec.json.encode(move).decode()
