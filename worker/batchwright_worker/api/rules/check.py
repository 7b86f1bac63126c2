"""Holds a value against the rules between fields, without a schema: manifests from files, and what is made of them."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import msgspec

from batchwright_worker.api.rules.rule import Rule, is_transition
from batchwright_worker.api.validation import Problem


def broken_rules(value: object, path: str) -> Iterator[Problem]:
    """Broken rules of a struct of the manifests (or a tuple of them) and of all that it is made of; `path`: its own."""
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from broken_rules(item, f"{path}[{index}]")
    if not isinstance(value, msgspec.Struct):
        return
    encoded = {field.name: field.encode_name for field in msgspec.structs.fields(value)}
    for rule in _rules():
        if isinstance(value, rule.on) and not is_transition(rule) and not _passes(rule, value):
            field = ".".join(part for part in (path, rule.names or encoded.get(rule.at, "")) if part)
            yield Problem(field=field or "metadata.name", message=rule.wrong, remedy=rule.remedy)
    for name, wire in encoded.items():
        yield from broken_rules(getattr(value, name), f"{path}.{wire}" if path else wire)


def _passes(rule: Rule, value: msgspec.Struct) -> bool:
    subject = getattr(value, rule.at) if rule.at else value
    return subject is None or rule.holds(subject)


@functools.cache
def _rules() -> tuple[Rule, ...]:
    from batchwright_worker.api.rules import deployment, job, model, text_task

    return (*deployment.RULES, *model.RULES, *text_task.RULES, *job.RULES)
