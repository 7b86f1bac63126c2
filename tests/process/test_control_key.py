"""The operator's control key and the tokens that are derived from it."""

from __future__ import annotations

import pytest

from batchwright_operator.errors import SettingsError
from batchwright_operator.process.control_key import KEY_BYTES, key_of
from batchwright_operator.reconcile.live_state import LiveState, control_token


def test_control_tokens_differ_by_key_and_object() -> None:
    tokens = {control_token(key, uid) for key in (b"a" * 32, b"b" * 32) for uid in ("1", "2")}
    assert len(tokens) == 4
    with pytest.raises(ValueError, match="not loaded"):
        LiveState().control_token("1")


@pytest.mark.parametrize("data", [None, {}, {"key": "!"}, {"key": "c2hvcnQ="}])
def test_a_broken_control_key_says_what_to_do(data: dict[str, str] | None) -> None:
    with pytest.raises(SettingsError, match=rf"Secret n/k has no data.key of at least {KEY_BYTES}.*delete it"):
        key_of({"metadata": {"name": "k", "namespace": "n"}, "data": data})
