"""Selectors as the API server reads them."""

from __future__ import annotations

import pytest

from batchwright_operator.kube.selectors import matcher

OBJECT = {
    "metadata": {"name": "a", "namespace": "n", "labels": {"app": "x", "tier": "web"}},
    "spec": {"nodeName": "node-1", "hostNetwork": True},
    "status": {"phase": "Running"},
}


@pytest.mark.parametrize(
    ("labels", "fields", "expected"),
    [
        ("", "", True),
        ("app=x", "", True),
        ("app==x", "", True),
        ("app!=x", "", False),
        ("missing!=x", "", True),
        ("app=x,tier=db", "", False),
        ("app in (x, y),tier in (web)", "", True),
        ("app notin (x,y)", "", False),
        ("missing notin (x)", "", True),
        ("app", "", True),
        ("!app", "", False),
        ("! missing", "", True),
        ("", "metadata.name=a", True),
        ("", "spec.nodeName=node-2", False),
        ("", "status.phase!=Succeeded,status.phase!=Failed", True),
        ("", "spec.hostNetwork=true", True),
        ("", "spec.missing=", True),
    ],
)
def test_selector(labels: str, fields: str, expected: bool) -> None:
    assert matcher(labels, fields)(OBJECT) is expected


@pytest.mark.parametrize(("labels", "fields"), [("a=b=c", ""), ("", "spec.nodeName"), ("a < 3", "")])
def test_an_unreadable_selector_is_refused(labels: str, fields: str) -> None:
    with pytest.raises(ValueError, match="cannot read"):
        matcher(labels, fields)
