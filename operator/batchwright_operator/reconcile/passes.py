"""What a pass does, told step by step to whoever wants to know: observe, decide, act."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Final, Protocol

from batchwright_operator.kube.objects import Raw
from batchwright_operator.reconcile.decisions import Action, Key, StatusWrite


class Pass(Protocol):
    """One pass that is being done."""

    def step(self, name: str, action: Action | None = None) -> AbstractContextManager[None]:
        """A step is done inside; `action`: it is this one, with the API server's answer."""

    def wrote(self, write: StatusWrite) -> None:
        """The status was written."""


class Passes(Protocol):
    """Is told of every pass."""

    def passing(self, key: Key) -> AbstractContextManager[Pass]:
        """A pass is done inside; its tasks find it as `current`."""


_NOTHING: Final = nullcontext()


class _Untold:
    """Nobody wants to know."""

    def step(self, name: str, action: Action | None = None) -> AbstractContextManager[None]:
        return _NOTHING

    def wrote(self, write: StatusWrite) -> None: ...

    def passing(self, key: Key) -> AbstractContextManager[Pass]:
        return _NOTHING_OF_IT


UNTOLD: Final = _Untold()
_NOTHING_OF_IT: Final[AbstractContextManager[Pass]] = nullcontext(UNTOLD)
current: ContextVar[Pass] = ContextVar("pass", default=UNTOLD)


def name_of(action: Action) -> tuple[str, str, str]:
    """Kind, namespace and name of what it is about."""
    body: Raw | None = getattr(action, "body", None)
    if body is not None:
        metadata = body["metadata"]
        return action.resource.kind, metadata.get("namespace", ""), metadata["name"]
    return action.resource.kind, str(getattr(action, "namespace", "")), str(getattr(action, "name", ""))
