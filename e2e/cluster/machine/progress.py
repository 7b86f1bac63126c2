"""Progress of long steps on stderr: a line that counts seconds on a terminal, a line every 10 s elsewhere."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

_TERMINAL_INTERVAL_S = 0.5
_LOG_INTERVAL_S = 10.0


def say(message: str) -> None:
    """One line for the user."""
    print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def step(title: str, detail: Callable[[], str] = str) -> Iterator[None]:
    """Show `title`, what `detail()` says and the elapsed seconds while the body runs, and how long it took."""
    started = time.monotonic()
    done = threading.Event()
    ticker = threading.Thread(target=_tick, args=(title, detail, started, done), daemon=True)
    ticker.start()
    outcome = "failed after"
    try:
        yield
        outcome = "done in"
    finally:
        done.set()
        ticker.join()
        _show(f"{title}: {outcome} {time.monotonic() - started:.1f} s", last=True)


def _tick(title: str, detail: Callable[[], str], started: float, done: threading.Event) -> None:
    interval_s = _TERMINAL_INTERVAL_S if sys.stderr.isatty() else _LOG_INTERVAL_S
    _show(f"{title} ...")
    while not done.wait(interval_s):
        said = detail()
        _show(f"{title}: {said + ', ' if said else ''}{time.monotonic() - started:.0f} s")


def _show(line: str, *, last: bool = False) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="\n" if last else "", file=sys.stderr, flush=True)
    else:
        say(line)
