"""How far a job is, while it runs: a bar on a terminal, elsewhere a line every ten seconds."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

BAR_SECONDS: Final = 0.25
LINE_SECONDS: Final = 10.0
RATE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Items that are through, and whom they wait for. `left_s`: until the deadline; None: there is none."""

    done: int
    failed: int
    waiting_for: Sequence[str] = ()
    left_s: float | None = None


@dataclass(slots=True, kw_only=True)
class Rate:
    """Items per second over the last minute."""

    samples: deque[tuple[float, int]] = field(default_factory=deque)

    def per_second(self, done: int, now: float) -> float | None:
        """With `done` items at this time; None where nothing has been measured yet."""
        self.samples.append((now, done))
        while len(self.samples) > 2 and self.samples[0][0] < now - RATE_SECONDS:
            self.samples.popleft()
        since, before = self.samples[0]
        return (done - before) / (now - since) if now > since and done > before else None


def note(total: int, counts: Counts, rate: float | None) -> str:
    """Rate, time to the end and what is wrong, in words. Pure."""
    words = []
    left_s = None if rate is None else (total - counts.done) / rate
    if rate is not None and left_s is not None:
        words += [f"{rate:.4g} items/s", f"{duration(left_s)} left"]
    if counts.failed:
        words.append(f"{counts.failed} failed")
    if counts.waiting_for:
        words.append(f"waiting for {', '.join(counts.waiting_for)}")
    if counts.left_s is not None and left_s is not None and left_s > counts.left_s:
        words.append(f"activeDeadlineSeconds ends in {duration(max(0.0, counts.left_s))}, before the job")
    return ", ".join(words)


def line(name: str, total: int, counts: Counts, rate: float | None) -> str:
    """One line for a log. Pure."""
    share = 100 * counts.done // max(total, 1)
    more = note(total, counts, rate)
    return f"{name}: {counts.done} of {total} items ({share} %){f', {more}' if more else ''}"


def duration(seconds: float) -> str:
    """45 s, 3 min 10 s, 2 h 5 min."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


@contextlib.asynccontextmanager
async def shown(name: str, total: int, counts: Callable[[], Counts], *, show: bool) -> AsyncIterator[None]:
    """Show it on standard error while the body runs."""
    console = Console(stderr=True)
    if not show:
        yield
    elif console.is_terminal:
        async with _bar(name, total, counts, console):
            yield
    else:
        async with _every(LINE_SECONDS, _lines(name, total, counts)):
            yield


@contextlib.asynccontextmanager
async def _bar(name: str, total: int, counts: Callable[[], Counts], console: Console) -> AsyncIterator[None]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=console) as bar:
        row, rate = bar.add_task(name, total=total, note=""), Rate()

        def refresh() -> None:
            now = counts()
            bar.update(row, completed=now.done, note=note(total, now, rate.per_second(now.done, time.monotonic())))

        async with _every(BAR_SECONDS, refresh):
            yield
        refresh()


def _lines(name: str, total: int, counts: Callable[[], Counts]) -> Callable[[], None]:
    rate = Rate()
    rate.per_second(0, time.monotonic())

    def write() -> None:
        now = counts()
        click.echo(line(name, total, now, rate.per_second(now.done, time.monotonic())), err=True)

    return write


@contextlib.asynccontextmanager
async def _every(seconds: float, act: Callable[[], None]) -> AsyncIterator[None]:
    async def keep() -> None:
        while True:
            await asyncio.sleep(seconds)
            act()

    task = asyncio.create_task(keep())
    try:
        yield
    finally:
        task.cancel()
