"""What goes wrong in a runner, by what happens next.

RunnerError
|- StepFailed        the whole step (plan, shard, commit) ends; `permanent` says whether a retry can help
|- TaskFailed        one item becomes an error record; the shard goes on
"""

from __future__ import annotations

MESSAGE_LIMIT = 500


class RunnerError(Exception):
    """Root of the runner's own errors."""


class StepFailed(RunnerError):  # noqa: N818
    """Plan, shard or commit cannot go on. `reason` is CamelCase, the message says what to do."""

    def __init__(self, reason: str, message: str, *, permanent: bool = True) -> None:
        super().__init__(message)
        self.reason = reason
        self.permanent = permanent


class TaskFailed(RunnerError):  # noqa: N818
    """One task of one item failed; the message goes into the item's error record."""


def describe(error: BaseException) -> str:
    """The error in one line, at most MESSAGE_LIMIT characters: `ValueError: what it says`."""
    if isinstance(error, RunnerError):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return shortened(" ".join(text.split()))


def shortened(text: str, limit: int = MESSAGE_LIMIT) -> str:
    """The text, cut to `limit` characters with an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
