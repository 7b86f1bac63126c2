"""Where data lies: local paths (also mounted claims) and object stores behind fsspec, and how a file is made whole.

A file appears under its name complete or not at all: on a file system by link or rename of a temporary file that was
flushed to the disk, on an object store by one put of the final key.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from batchwright_worker.api import names as contract
from batchwright_worker.api.uris import OF_PATHS, split_uri
from batchwright_worker.runner.errors import StepFailed

WORK_DIR: Final = "_batchwright"
"""Folder of the output that holds the plan, statistics and temporary files; no part of the data set."""
ERRORS_DIR: Final = "_errors"
"""Folder of the output with the error records, a file for each part of which items failed."""
_REMOVALS: Final = 5
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A path on a file system of fsspec; `uri` is what the user wrote."""

    uri: str
    fs: Any
    path: str
    local: bool

    def at(self, name: str) -> str:
        """Path of an entry below this one."""
        return f"{self.path.rstrip('/')}/{name}"

    def open(self, path: str) -> Any:
        """A file of the input, for reading; `path` as `path_text` has made it."""
        return self.fs.open(real_path(path), "rb")

    def info(self, path: str) -> dict[str, Any]:
        """What the file system says of a file of the input. Raises FileNotFoundError."""
        return dict(self.fs.info(real_path(path)))

    def read(self, name: str) -> bytes | None:
        """Contents of an entry of an output, None if there is none. Raises StepFailed as `output_errors`."""
        with output_errors(self):
            try:
                with self.fs.open(self.at(name), "rb") as file:
                    return bytes(file.read())
            except (FileNotFoundError, NotADirectoryError):
                return None

    def exists(self, name: str) -> bool:
        """Is there an entry of this name? Raises StepFailed as `output_errors`."""
        with output_errors(self):
            return bool(self.fs.exists(self.at(name)))


_RAW: Final = "\0raw:"
"""Before a path that is no UTF-8, whose bytes follow as percent signs have it; no path begins so."""


def path_text(path: str) -> str:
    """The path as it can be written down: names of files may be any bytes."""
    return path if _is_text(path) else _RAW + quote_from_bytes(os.fsencode(path))


def real_path(text: str) -> str:
    """The reverse."""
    return os.fsdecode(unquote_to_bytes(text.removeprefix(_RAW))) if text.startswith(_RAW) else text


def shown(path: str) -> str:
    """The path for people and as an id: bytes that are no UTF-8 are escaped."""
    return path if _is_text(path) else os.fsencode(path).decode("utf-8", "backslashreplace")


def _is_text(path: str) -> bool:
    return not any(0xD800 <= ord(sign) <= 0xDFFF for sign in path) if not path.isascii() else True


def locate(uri: str, secret_name: str | None = None) -> Location:
    """Where a URI of the manifest lies. Raises StepFailed(InvalidUri) for what is not offered or not allowed."""
    scheme = split_uri(uri).scheme
    if scheme in ("", *OF_PATHS):
        try:
            path = str(Path(contract.data_path(uri)).absolute())
        except ValueError as error:
            raise StepFailed("InvalidUri", str(error)) from error
        return Location(uri=uri, fs=_local(), path=path, local=True)
    if scheme == "memory":  # of this process alone: for tests
        return _in_memory(uri)
    from batchwright_worker.runner.storage.remote import file_system

    fs, path = file_system(uri, scheme, secret_name)
    return Location(uri=uri, fs=fs, path=path, local=False)


def _local() -> Any:
    from fsspec.implementations.local import LocalFileSystem

    return LocalFileSystem(auto_mkdir=False)


def _in_memory(uri: str) -> Location:
    from fsspec.implementations.memory import MemoryFileSystem

    return Location(uri=uri, fs=MemoryFileSystem(), path=MemoryFileSystem._strip_protocol(uri), local=False)


@contextlib.contextmanager
def output_errors(location: Location) -> Iterator[None]:
    """Turn what a file system says while an output is written into a StepFailed that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            message = f"{location.uri}: no space left; free or enlarge the volume, the shard is repeated"
            raise StepFailed("OutputFull", message, permanent=False) from error
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            message = (
                f"{location.uri} is not writable ({error.strerror}): mount it read-write, and make it writable for the "
                "runner's user or group (65532 unless spec.runner.pod.securityContext says otherwise)"
            )
            raise StepFailed("OutputNotWritable", message) from error
        raise StepFailed("OutputNotWritable", f"{location.uri}: {error}", permanent=False) from error


def write_atomically(location: Location, name: str, data: bytes) -> None:
    """Put an entry there, replacing what has the name."""
    with output_errors(location):
        if not location.local:
            location.fs.pipe_file(location.at(name), data)
            return
        target = Path(location.at(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        try:
            temporary.write_bytes(data)
            sync_file(temporary)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)


def remove(location: Location, name: str) -> None:
    """A file or folder of ours, if it is there; others may be removing it, too, or put something into it."""
    with output_errors(location):
        if not location.local:
            with contextlib.suppress(FileNotFoundError):
                location.fs.rm(location.at(name), recursive=True)
            return
        for left in reversed(range(_REMOVALS)):
            try:
                _remove_path(Path(location.at(name)))
            except OSError as error:
                if error.errno != errno.ENOTEMPTY or not left:
                    raise
            else:
                return


def _remove_path(path: Path) -> None:
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    with contextlib.suppress(FileNotFoundError):
        for each in list(path.iterdir()):
            _remove_path(each)
        path.rmdir()


def create(location: Location, name: str, data: bytes) -> bool:
    """Put an entry there, whole, unless there is one; False: there was."""
    with output_errors(location):
        if not location.local:
            try:
                location.fs.pipe_file(location.at(name), data, mode="create")
            except FileExistsError:
                return False
            return True
        target = Path(location.at(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        try:
            temporary.write_bytes(data)
            return _link(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def commit_file(location: Location, name: str, temporary: Path) -> bool:
    """Give a finished local file its final name in the output unless there is one; False: another was first.

    The one atomic step of a shard: a hard link (which never replaces) on a file system, an exclusive put on an object
    store. The temporary file is removed in any case.
    """
    with output_errors(location):
        try:
            if location.local:
                return _link(temporary, Path(location.at(name)))
            return _put(location, name, temporary)
        finally:
            temporary.unlink(missing_ok=True)


def _link(temporary: Path, target: Path) -> bool:
    sync_file(temporary)
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
            raise
        if target.exists():  # a file system without hard links: rename is atomic too, but would replace
            return False
        temporary.replace(target)
    _sync_folder(target.parent)
    return True


def _put(location: Location, name: str, temporary: Path) -> bool:
    try:
        location.fs.put_file(str(temporary), location.at(name), mode="create")
    except FileExistsError:
        return False
    return True


def sync_file(path: Path) -> None:
    """Have the file on the disk before it gets its name: a crash of the node must not leave an empty one."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system can
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
