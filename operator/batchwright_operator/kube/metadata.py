"""Facts in the metadata of an object, whatever its kind. Pure."""

from __future__ import annotations

from typing import Final

from batchwright_operator.kube.conditions import few
from batchwright_operator.kube.objects import Raw

MOST_DIGITS: Final = 18
"""Of a number in 64 bits."""


def is_leaving(obj: Raw) -> bool:
    """Whether the object is being deleted."""
    return "deletionTimestamp" in obj["metadata"]


def why_still_there(kind: str, obj: Raw) -> str:
    """Of a child that somebody else deletes: what it waits for, and what comes after."""
    metadata = obj["metadata"]
    return (
        f"{kind} {metadata['name']} is being deleted, and is made anew once that is done; it waits for its "
        f"finalizers ({few(metadata.get('finalizers') or ['none'])})"
    )


def label(obj: Raw, name: str) -> str:
    """The value of this label; empty without it."""
    return str((obj["metadata"].get("labels") or {}).get(name, ""))


def annotation(obj: Raw, name: str) -> str:
    """The value of this annotation; empty without it."""
    return str((obj["metadata"].get("annotations") or {}).get(name, ""))


def whole_number(text: str) -> int | None:
    """The number that this text is; None for any other: annotations may be edited by anybody."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS else None


def controller_of(obj: Raw) -> Raw | None:
    """The owner reference of the object's controller."""
    references = obj["metadata"].get("ownerReferences") or ()
    return next((each for each in references if each.get("controller")), None)


def controller_uid(obj: Raw) -> str | None:
    """The uid of the object's controller."""
    owner = controller_of(obj)
    return None if owner is None else str(owner["uid"])
