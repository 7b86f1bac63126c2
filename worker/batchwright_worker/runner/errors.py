"""What goes wrong in a runner, by what happens next.

RunnerError
|- StepFailed        the whole step (plan, shard, commit) ends; `permanent` says whether a retry can help
|- TaskFailed        one item becomes an error record; the shard goes on
"""

from __future__ import annotations

from batchwright_worker.api.uris import without_secrets
from batchwright_worker.texts import presentable, text_of

MESSAGE_LIMIT = 500
MOST_READ = 20 * MESSAGE_LIMIT
"""Characters of a text that are looked at: its blanks are joined before it is cut."""


class RunnerError(Exception):
    """Root of the runner's own errors."""


class StepFailed(RunnerError):  # noqa: N818
    """Plan, shard or commit cannot go on. `reason` is CamelCase, the message says what to do."""

    def __init__(self, reason: str, message: str, *, permanent: bool = True) -> None:
        super().__init__(without_secrets(message))
        self.reason = reason
        self.permanent = permanent


class TaskFailed(RunnerError):  # noqa: N818
    """One task of one item failed; the message goes into the item's error record."""


def describe(error: BaseException) -> str:
    """The error in one line, at most MESSAGE_LIMIT bytes: `ValueError: what it says`."""
    text = text_of(error)
    if not isinstance(error, RunnerError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return shortened(" ".join(text[:MOST_READ].split()))


def shortened(text: str, limit: int = MESSAGE_LIMIT) -> str:
    """The text as it may be written anywhere, cut to `limit` bytes with an ellipsis."""
    return presentable(text, limit)
