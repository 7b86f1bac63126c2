"""What a runner knows about one replica's load for one model: how many rows to have there, and which replica to prefer.

Pure; times are seconds of one monotonic clock, waits milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_WINDOW_ROWS = 8.0
WINDOW_BATCHES = 4.0
MOST_WINDOW_BATCHES = 12.0
TURNAROUND_MS = 25.0
"""Answers are handled between other work of the runner: so long a replica must have enough to do without it."""
REQUESTS = 4
"""Into so many requests a window is divided: each costs both sides as much as tens of small rows."""
_EWMA = 0.3
_FORGET = 0.1


@dataclass(slots=True, kw_only=True)
class ReplicaLoad:
    """Rows in flight are bounded by a window: four batches, so that one runs, the next waits whole, and more are left
    waiting, which is what makes the tuner try a larger size; of short batches as many as last for TURNAROUND_MS; less
    after a refusal (halved, grown again by each answer). Rows beyond that wait here, where another replica can still
    have them. `batch_size` follows the batches that ran: up at once, down slowly, since a batch may be small because
    few rows of its shape were there."""

    batch_size: float = 1.0
    in_flight: int = 0
    window: float = FIRST_WINDOW_ROWS
    wait_ms: float = 0.0
    row_ms: float = 0.0
    reported_at: float = 0.0
    sent_since: int = 0

    @property
    def room(self) -> int:
        """Rows that may be sent now."""
        return max(0, int(self.window) - self.in_flight)

    @property
    def ceiling(self) -> float:
        """The largest window."""
        lasting = min(TURNAROUND_MS / self.row_ms, MOST_WINDOW_BATCHES * self.batch_size) if self.row_ms else 0.0
        return max(FIRST_WINDOW_ROWS, WINDOW_BATCHES * self.batch_size, lasting)

    @property
    def request_rows(self) -> int:
        """Most rows of one request."""
        return max(1, int(self.batch_size), int(self.window / REQUESTS))

    def begins_with(self, batch_size: int) -> None:
        """The size of its batches, as it tells before it has had any rows of ours."""
        self.batch_size = max(self.batch_size, float(batch_size))
        self.window = max(self.window, self.ceiling)

    def expected_wait_ms(self, now: float) -> float:
        """The wait that a row sent now would meet: what the replica said, worked off since, and what was sent since."""
        return max(0.0, self.wait_ms - (now - self.reported_at) * 1000.0) + self.sent_since * self.row_ms

    def sent(self, rows: int) -> None:
        """Rows are on their way."""
        self.in_flight += rows
        self.sent_since += rows

    def answered(
        self, rows: int, *, now: float, elapsed_ms: float | None, wait_ms: float | None, batch_size: int | None
    ) -> None:
        """Rows came back; `wait_ms` and `batch_size` as the answer says, None if it does not; no time: an error."""
        if elapsed_ms is not None:
            per_row = elapsed_ms / max(1, self.in_flight)
            self.row_ms = per_row if not self.row_ms else self.row_ms + _EWMA * (per_row - self.row_ms)
        self.in_flight -= rows
        if batch_size is not None:
            self.batch_size = max(1.0, batch_size, self.batch_size + _FORGET * (batch_size - self.batch_size))
        self.window = min(self.ceiling, self.window + rows)
        self._reported(now, wait_ms)

    def refused(self, rows: int, *, now: float, wait_ms: float | None) -> None:
        """Rows were refused (overload): have half as many there."""
        self.in_flight -= rows
        self.window = max(1.0, min(self.window, self.in_flight + rows) / 2.0)
        self._reported(now, wait_ms)

    def lost(self, rows: int) -> None:
        """Rows got no answer: the replica is gone or starts again."""
        self.in_flight -= rows
        self.window = FIRST_WINDOW_ROWS
        self.wait_ms = 0.0
        self.sent_since = 0

    def _reported(self, now: float, wait_ms: float | None) -> None:
        if wait_ms is not None:
            self.wait_ms = wait_ms
            self.reported_at = now
            self.sent_since = 0


def backoff_s(attempt: int, *, share: float, first: float = 0.05, most: float = 5.0) -> float:
    """Wait before try number `attempt` (from 1): doubling, with full jitter; `share` is a random number in [0, 1)."""
    ceiling = min(most, first * 2.0 ** min(attempt - 1, 16))
    return ceiling * (0.5 + share / 2.0)
