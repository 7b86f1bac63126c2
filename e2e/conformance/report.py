"""What became of the cases: right, refused (with the server's sentence), or wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from e2e.conformance.cases import Case, same, same_form

Verdict = Literal["right", "refused", "wrong"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One case: `note` is the server's sentence, or how the answer differs; `served` what is said of the model."""

    name: str
    verdict: Verdict
    note: str = ""
    served: str = ""


def judged(case: Case, answer: Mapping[str, Any], served: str) -> Outcome:
    """An answer beside that of onnxruntime alone."""
    for name, wanted in case.wanted.items():
        given = answer.get(name)
        good = same_form(given, wanted) if case.chance else given is not None and same(given, wanted)
        if not good:
            return Outcome(name=case.name, verdict="wrong", note=_differs(name, wanted, given), served=served)
    return Outcome(name=case.name, verdict="right", served=served)


def _differs(name: str, wanted: Any, given: Any) -> str:
    if given is None:
        return f"output {name!r} is missing"
    wanted = np.asarray(wanted)
    forms = [f"{array.dtype} {list(array.shape)}" for array in (wanted, given)]
    if forms[0] != forms[1]:
        return f"output {name!r} is {forms[1]}, wanted {forms[0]}"
    return f"output {name!r} has other values: {given.reshape(-1)[:4]}, wanted {wanted.reshape(-1)[:4]}"


def table(outcomes: Sequence[Outcome]) -> str:
    """Totals, every wrong case, and the refusals by sentence."""
    counts = Counter(each.verdict for each in outcomes)
    whole = sum("alone, whole" in each.served for each in outcomes if each.verdict == "right")
    lines = [
        f"{len(outcomes)} cases: {counts['right']} right ({whole} of them whole), {counts['refused']} refused, "
        f"{counts['wrong']} wrong"
    ]
    lines += [f"WRONG {each.name}: {each.note} [{each.served}]" for each in outcomes if each.verdict == "wrong"]
    lines += [f"refused {each.name}: {each.note}" for each in outcomes if each.verdict == "refused"]
    return "\n".join(lines)
