"""All cases in groups: each group's models in one `serve`, each case asked of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from e2e.conformance.cases import Case
from e2e.conformance.report import Outcome, judged
from e2e.conformance.served import RefusedError, Serve, served

GROUP: Final = 60
"""Models in one process."""


def outcomes_of(cases: Sequence[Case], progress: Callable[[str], None] = lambda _text: None) -> Iterator[Outcome]:
    """Every case, in order."""
    done = 0
    for start in range(0, len(cases), GROUP):
        group = cases[start : start + GROUP]
        with tempfile.TemporaryDirectory(prefix="conformance-") as name:
            yield from _group(Path(name), group)
        done += len(group)
        progress(f"{done} of {len(cases)}")


def _group(folder: Path, group: Sequence[Case]) -> Iterator[Outcome]:
    paths = {}
    for number, case in enumerate(group):
        paths[f"m{number}"] = path = folder / f"m{number}.onnx"
        path.write_bytes(case.model)
    with served(folder, paths) as serve:
        for name, case in zip(paths, group, strict=True):
            yield _outcome(serve, name, case)


def _outcome(serve: Serve, name: str, case: Case) -> Outcome:
    state, said = serve.states[name]
    if state != "READY":
        return Outcome(name=case.name, verdict="refused", note=said)
    if not case.of_tensors:
        return Outcome(name=case.name, verdict="wrong", note="it was loaded, though the protocol carries tensors alone")
    try:
        answer = serve.infer(name, case.inputs)
    except RefusedError as refused:
        return Outcome(name=case.name, verdict="refused", note=str(refused), served=said)
    return judged(case, answer, said)
