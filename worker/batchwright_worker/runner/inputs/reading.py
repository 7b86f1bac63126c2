"""What goes wrong while the input is read, by what helps: the same again later, or another input."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from batchwright_worker.runner.errors import StepFailed, describe
from batchwright_worker.runner.storage.locations import Location

_GONE: Final = (404, 410)
_SOON: Final = (408, 425, 429)
"""Of a web server's noes, those that mean: not now."""


@contextlib.contextmanager
def input_errors(location: Location) -> Iterator[None]:
    """Turn what file systems, buckets and web servers say into a StepFailed that says what to do."""
    try:
        yield
    except FileNotFoundError as error:
        raise StepFailed("InputChanged", f"{location.uri}: {error}: it went while it was read; restore it") from error
    except PermissionError as error:
        message = f"{location.uri} is not readable ({error}): give the runner's user (65532) or its group read access"
        raise StepFailed("InputNotReadable", message) from error
    except Exception as error:
        if not isinstance(error, OSError) and _status(error) is None and not _of_the_web(error):
            raise
        permanent = is_final(_status(error))
        message = f"{location.uri} cannot be read: {describe(error)}"
        raise StepFailed("InputNotReadable", message, permanent=permanent) from error


def web_cause(error: FileNotFoundError) -> Exception | None:
    """What a web server did that fsspec calls "not found", where it did not say so: it says that of every failure."""
    cause = error.__cause__
    if not isinstance(cause, Exception) or not (_of_the_web(cause) or isinstance(cause, TimeoutError)):
        return None
    return None if _status(cause) in _GONE else cause


def is_of_this_file(location: Location, error: Exception) -> bool:
    """Is it this one file that cannot be read, now or later? Else it is the connection to all of them."""
    if isinstance(error, FileNotFoundError | PermissionError):
        return True
    return (location.local and isinstance(error, OSError)) or is_final(_status(error))


def is_final(status: int | None) -> bool:
    """Would a web server that answers so answer so again?"""
    return status is not None and 400 <= status < 500 and status not in _SOON


def _status(error: Exception) -> int | None:
    """Of a web server's answer."""
    status = getattr(error, "status", None)
    return status if _of_the_web(error) and isinstance(status, int) else None


def _of_the_web(error: Exception) -> bool:
    """The library is imported only where the input is on the web."""
    return any(kind.__module__.startswith("aiohttp") for kind in type(error).__mro__)
