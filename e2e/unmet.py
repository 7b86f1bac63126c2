"""What the packages of this environment ask for and do not get, as `pip check` says it, beside what is known."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

KNOWN: Final = {
    ("rapidocr-onnxruntime", "opencv-python"): "the extra ocr takes opencv-python-headless, which has the same module: "
    "the desktop build needs libGL, and pip cannot be told that one stands for the other. Its successor rapidocr asks "
    "for the headless one, and has other networks than those that the examples are measured with",
}
"""(package, what it asks for) -> why it does not get that."""


def unmet() -> Iterator[tuple[str, str, str]]:
    """(package, what it asks for, what is there), by canonical names; requirements of extras are nobody's here."""
    installed = {canonicalize_name(each.name): each for each in metadata.distributions()}
    for name, package in sorted(installed.items()):
        for text in package.requires or ():
            wanted = Requirement(text)
            if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
                continue
            there = installed.get(canonicalize_name(wanted.name))
            if there is None or not wanted.specifier.contains(there.version, prereleases=True):
                yield name, canonicalize_name(wanted.name), "nothing" if there is None else there.version


def report() -> int:
    """Says all of it; the status for make: 1 for any that is not known, and for a known one that is none any more."""
    found = {(package, wanted): there for package, wanted, there in unmet()}
    for (package, wanted), there in found.items():
        why = KNOWN.get((package, wanted), "NOT KNOWN: change the lock, or say in e2e/unmet.py why it is right")
        sys.stdout.write(f"{package} asks for {wanted}, there is {there}: {why}\n")
    for package, wanted in KNOWN.keys() - found.keys():
        sys.stdout.write(f"{package} gets {wanted} now: remove it from e2e/unmet.py\n")
    return int(found.keys() != KNOWN.keys())
