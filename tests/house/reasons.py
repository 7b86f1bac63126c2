"""Which words of the sources are reasons that users meet: of conditions, Events, failed steps."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from typing import Any

import yaml

from tests.house.commands import ROOT

ROOMS = (
    *(f"operator/batchwright_operator/{room}" for room in ("deployments", "jobs", "placement", "pods", "processors")),
    *(f"operator/batchwright_operator/{room}" for room in ("rebalance", "reconcile", "status")),
    *(f"worker/batchwright_worker/{room}" for room in ("runner", "local")),
)
WORD = re.compile(r"[A-Z][a-z0-9]+(?:[A-Z][a-z0-9]+)*")
COMPOUND = re.compile(r"[A-Z][a-z0-9]+(?:[A-Z][a-z0-9]+)+")


def found_reasons() -> dict[str, str]:
    """Reason -> a file that says it; none that is missing here is a compound word or handed over as `reason`."""
    known = declared_words() | OTHER
    return {word: file for word, file in _candidates(_trees()) if word not in known}


def all_words() -> set[str]:
    """Every word that stands as a string in a room that has reasons."""
    return {word for tree in _trees().values() for node in ast.walk(tree) if WORD.fullmatch(word := _text(node))}


@functools.cache
def _trees() -> dict[str, ast.Module]:
    files = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in files}


def _candidates(trees: dict[str, ast.Module]) -> Iterator[tuple[str, str]]:
    """Every compound word as a string, and every word that is handed over as a reason."""
    constants = dict(pair for tree in trees.values() for pair in _constants(tree))
    for name, tree in trees.items():
        listed = _own_names(tree)
        for node in ast.walk(tree):
            for given in _given(node):
                word = constants.get(given.id, "") if isinstance(given, ast.Name) else _text(given)
                if WORD.fullmatch(word):
                    yield word, name
            if COMPOUND.fullmatch(word := _text(node)) and word not in listed:
                yield word, name


def _text(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Words with a name of their own, which other files import."""
    for node in tree.body:
        if isinstance(node, ast.AnnAssign | ast.Assign) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            targets, values = (each.elts if isinstance(each, ast.Tuple) else [each] for each in (target, node.value))
            for name, value in zip(targets, values, strict=False):
                if isinstance(name, ast.Name) and (word := _text(value)):
                    yield name.id, word


def _given(node: ast.AST) -> Iterator[ast.expr]:
    """What a call hands over as a reason."""
    if isinstance(node, ast.keyword) and node.arg == "reason":
        yield from (node.value.body, node.value.orelse) if isinstance(node.value, ast.IfExp) else (node.value,)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute) and node.args:
        called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        place = {"StepFailed": 0, "_event": 1, "_record_event": 1, "_release": 1}.get(called)
        if place is not None and place < len(node.args):
            yield node.args[place]


def _own_names(tree: ast.Module) -> set[str]:
    """What stands in `__all__`: names of the code, not of the product."""
    lists = [node.value for node in tree.body if isinstance(node, ast.Assign) and _is_all(node.targets)]
    return {each.value for found in lists for each in ast.walk(found) if isinstance(each, ast.Constant)}


def _is_all(targets: list[ast.expr]) -> bool:
    return any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)


def declared_words() -> set[str]:
    """What the CRDs allow as values of fields."""
    words: set[str] = set()
    for path in (ROOT / "crds").glob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            words |= set(_enumerated(document))
    return words


def _enumerated(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from (each for each in node.get("enum") or () if isinstance(each, str))
        for each in node.values():
            yield from _enumerated(each)
    elif isinstance(node, list):
        for each in node:
            yield from _enumerated(each)


OTHER = {
    *("ConfigMap", "InferenceJob", "ModelDeployment"),  # kinds
    *("DeadlineAtRisk", "LatencyTargetMet", "WaitingForModels"),  # types of conditions, as are the next line's
    *("DisruptionTarget", "FailureTarget", "PodReadyToStartContainers", "PodScheduled", "ReplicaFailure"),
    "ContainersReady",
    *("FailIndex", "FailJob"),  # actions of a Job's podFailurePolicy
    *("AlwaysAllow", "DoesNotExist", "ExactCount", "NotIn"),  # values of fields of Kubernetes' objects
    *("CrashLoopBackOff", "FailedCreate", "NewReplicaSetAvailable"),  # reasons of others, read and not said
    *("ContainerCreating", "PodInitializing"),
    *("ErrImageNeverPull", "ErrImagePull", "ImageInspectError", "ImagePullBackOff", "InvalidImageName"),
    *("RegistryUnavailable", "SignatureValidationFailed"),
    *("GivenUp", "LastModified", "ScoreContext", "ThroughputLeft"),
}
"""Words of the same form that are none."""
