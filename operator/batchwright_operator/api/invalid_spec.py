"""The error of an object that is stored and cannot be parsed."""

from __future__ import annotations

import msgspec


class InvalidSpec(ValueError):  # noqa: N818 - a fact about an object, named as one
    """A stored object breaks the schema (it is older than a rule, or the CRDs are not those of this operator).

    `field` is the path of what is wrong (`spec.models[0].name`), `problem` what is wrong with it.
    """

    def __init__(self, error: msgspec.ValidationError) -> None:
        problem, _, path = str(error).partition(" - at `$")
        self.field = f"spec{path.rstrip('`')}"
        self.problem = problem
        super().__init__(f"{self.field}: {problem}; correct the field, or apply the CRDs of this version")
