"""Buckets as the file system that readers of data sets expect (fsspec's interface), over obstore.

Paths are BUCKET/KEY. A put is whole or not there, and with mode `create` never replaces: that is what parts are
committed by.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from batchwright_worker.fetch.buckets import Buckets, NoSuchObject, NotPermitted, ObjectAddress, address_of, meaning
from batchwright_worker.fetch.errors import FetchError

_BLOCK_BYTES: Final = 8 << 20


class StoreError(OSError):
    """What a store says, or that it says nothing: it may say something else later."""


class BucketFiles(AbstractFileSystem):  # type: ignore[misc] # fsspec has no types
    """One scheme, s3, gs or az. Raises FileNotFoundError, PermissionError, FileExistsError, OSError with the words of
    `meaning`."""

    cachable = False

    def __init__(self, scheme: str, buckets: Buckets) -> None:
        super().__init__()
        self.protocol = scheme
        self._buckets = buckets

    def connect(self, address: ObjectAddress) -> None:
        """Makes the store, so that what is wrong with the credentials is said at once. Raises FetchRefused,
        Interrupted."""
        self._store(address)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        address = self._address(path)
        try:
            if address.key and not address.key.endswith("/"):
                with contextlib.suppress(FileNotFoundError):
                    return self._entry(address, self._store(address).head(address.key))
            is_folder = self._has_entries(address)
        except Exception as error:
            raise _os_error(address, error) from error
        if not is_folder:
            raise _os_error(address, FileNotFoundError(address.key))
        return {"name": path.rstrip("/"), "size": 0, "type": "directory"}

    def exists(self, path: str, **_: Any) -> bool:
        """Raises OSError where that cannot be told: what was not asked is not absent."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        address = self._address(path)
        try:
            found = self._store(address).list_with_delimiter(address.key.rstrip("/") or None)
        except Exception as error:
            raise _os_error(address, error) from error
        folders = [
            {"name": f"{address.bucket}/{prefix}", "size": 0, "type": "directory"}
            for prefix in found["common_prefixes"]
        ]
        entries = [*folders, *self._files(address, found["objects"])]
        if not entries:
            entries = [self.info(path)]
            if entries[0]["type"] == "directory":
                entries = []
        return entries if detail else [entry["name"] for entry in entries]

    def find(  # type: ignore[no-untyped-def] # as fsspec has it
        self, path: str, maxdepth=None, withdirs: bool = False, detail: bool = False, **options: Any
    ) -> Any:
        if maxdepth is not None or withdirs:
            return super().find(path, maxdepth=maxdepth, withdirs=withdirs, detail=detail, **options)
        address = self._address(path)
        try:
            pages = self._store(address).list(address.key.rstrip("/") or None)
            found = {entry["name"]: entry for page in pages for entry in self._files(address, page)}
        except Exception as error:
            raise _os_error(address, error) from error
        if not found:
            entry = self.info(path)
            found = {entry["name"]: entry} if entry["type"] == "file" else {}
        return found if detail else sorted(found)

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> Any:
        if mode != "rb":
            raise ValueError("objects are written whole: pipe_file, put_file")
        return _ObjectFile(self, path, mode, block_size or _BLOCK_BYTES, cache_type="readahead", size=None, **options)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        if start is not None or end is not None:
            return bytes(super().cat_file(path, start=start, end=end, **options))
        address = self._address(path)
        try:
            return bytes(self._store(address).get(address.key).bytes())
        except Exception as error:
            raise _os_error(address, error) from error

    def read_range(self, path: str, version: str, start: int, end: int) -> bytes:
        """Bytes of this version of the object. Raises OSError if it is another one by now."""
        address = self._address(path)
        options: dict[str, Any] = {"range": (start, end), **({"if_match": version} if version else {})}
        try:
            return bytes(self._store(address).get(address.key, options=options).bytes())
        except Exception as error:
            raise _os_error(address, error) from error

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        self._put(path, value, mode)

    def put_file(self, lpath: str, rpath: str, mode: str = "overwrite", **_: Any) -> None:
        local = Path(lpath)
        if mode != "create":
            self._put(rpath, local, mode)
            return
        # A conditional put is one request with the whole file: of the file's pages, not of a copy. The map is let go
        # of with the last reference to it, which may be the library's.
        content: bytes | mmap.mmap = b""
        if local.stat().st_size:
            with local.open("rb") as file:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._put(rpath, content, mode)

    def read_version(self, path: str) -> tuple[bytes, object]:
        """The object, and what `put_version` wants to replace just this one."""
        address = self._address(path)
        try:
            found = self._store(address).get(address.key)
            return bytes(found.bytes()), _version(found.meta)
        except Exception as error:
            raise _os_error(address, error) from error

    def put_version(self, path: str, value: bytes, version: object) -> object | None:
        """Put it in the place of that version, or where there is none if that is None; the new version, None if
        another one stands there."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        address, mode = self._address(path), "create" if version is None else version
        try:
            return _version(self._store(address).put(address.key, value, mode=mode))
        except (AlreadyExistsError, PreconditionError):
            return None
        except Exception as error:
            if version is not None and isinstance(error, FileNotFoundError):
                return None
            raise _os_error(address, error) from error

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        source, target = self._address(path1), self._address(path2)
        if source.bucket != target.bucket:
            raise OSError(f"{target.uri}: objects are copied within one bucket")
        try:
            self._store(source).copy(source.key, target.key)
        except Exception as error:
            raise _os_error(source, error) from error

    def rm_file(self, path: str) -> None:
        address = self._address(path)
        try:
            self._store(address).delete(address.key)
        except FileNotFoundError:
            return
        except Exception as error:
            raise _os_error(address, error) from error

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        for each in [path] if isinstance(path, str) else path:
            for name in self.find(each, maxdepth=maxdepth) if recursive else [each]:
                self.rm_file(name)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """There are no folders to be made."""

    def _put(self, path: str, content: Any, mode: str) -> None:
        from obstore.exceptions import AlreadyExistsError

        address = self._address(path)
        try:
            self._store(address).put(address.key, content, mode=mode)
        except AlreadyExistsError as error:
            raise FileExistsError(address.uri) from error
        except Exception as error:
            raise _os_error(address, error) from error

    def _address(self, path: str) -> ObjectAddress:
        try:
            return address_of(f"{self.protocol}://{path}")
        except FetchError as error:
            raise OSError(str(error)) from error

    def _store(self, address: ObjectAddress) -> Any:
        return self._buckets.store(address)

    def _has_entries(self, address: ObjectAddress) -> bool:
        return any(page for page in self._store(address).list(address.key.rstrip("/") or None, chunk_size=1))

    def _files(self, folder: ObjectAddress, metas: Iterable[Any]) -> list[dict[str, Any]]:
        """Without objects that stand for folders: the library shows them without their slash, as empty objects that
        are not there."""
        store = self._store(folder)
        return [self._entry(folder, meta) for meta in metas if meta["size"] or _is_there(store, meta["path"])]

    def _entry(self, folder: ObjectAddress, meta: Any) -> dict[str, Any]:
        return {
            "name": f"{folder.bucket}/{meta['path']}",
            "size": int(meta["size"]),
            "type": "file",
            "ETag": meta.get("e_tag") or "",
            "LastModified": meta["last_modified"].isoformat(),
        }

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        """Keys are taken letter by letter."""
        return path.partition("://")[2] or path


class _ObjectFile(AbstractBufferedFile):  # type: ignore[misc] # fsspec has no types
    """Reads one version of an object, block by block."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        if start >= end:
            return b""
        return bytes(self.fs.read_range(self.path, self.details["ETag"], start, end))


def _version(meta: Any) -> dict[str, str]:
    """As a conditional put names it; which of the two there are is the store's business."""
    return {name: meta[name] for name in ("e_tag", "version") if meta.get(name)}


def _is_there(store: Any, key: str) -> bool:
    try:
        store.head(key)
    except FileNotFoundError:
        return False
    return True


def _os_error(address: ObjectAddress, error: Exception) -> OSError:
    """What readers and writers of files look for."""
    match meaning(address, error):
        case NoSuchObject() as found:
            return FileNotFoundError(str(found))
        case NotPermitted() as found:
            return PermissionError(str(found))
        case found:
            return StoreError(str(found))
