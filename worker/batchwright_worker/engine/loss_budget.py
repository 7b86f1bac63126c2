"""What a model may cost the others of its device by losing their runtime, and how long it rests beyond that. Pure.

Every lost runtime stops all models of its device until it is back: a model that hangs or crashes under one request
after another would have the device to itself. So its losses may take SHARE of the device's time in the long run, with
a burst of BURST_S, which a single request that crashes does not exceed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

SHARE: Final = 0.02
BURST_S: Final = 5.0
FIRST_REST_S: Final = 30.0
"""The longest first rest; each further one may be twice as long, ..."""
MOST_REST_S: Final = 600.0
"""... up to this, until nothing is owed any more."""


@dataclass(slots=True)
class _Account:
    """`owed_s` seconds of device time as of `at`."""

    at: float
    owed_s: float = 0.0
    rests: int = 0


@dataclass(slots=True)
class LossBudget:
    """One per engine."""

    _accounts: dict[str, _Account] = field(default_factory=dict)

    def lost(self, model: str, cost_s: float, now: float) -> None:
        """A runtime was lost under this model, which took the device `cost_s` seconds."""
        account = self._accounts.setdefault(model, _Account(now))
        account.owed_s = max(0.0, account.owed_s - SHARE * (now - account.at))
        if not account.owed_s:
            account.rests = 0
        account.owed_s += cost_s
        account.at = now

    def rest_s(self, model: str) -> float:
        """How long the model rests after its last loss, 0 if it need not; counts as a rest."""
        account = self._accounts.get(model)
        if account is None or account.owed_s <= BURST_S:
            return 0.0
        longest_s = min(MOST_REST_S, FIRST_REST_S * float(2 ** min(account.rests, 10)))
        account.rests += 1
        return min(longest_s, (account.owed_s - BURST_S) / SHARE)
