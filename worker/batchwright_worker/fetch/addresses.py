"""Addresses of the files of one artifact; pure. A name goes into a URL quoted, and into a key of a store as it is."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

from batchwright_worker.api.uris import OF_URLS, split_uri


def within(folder_uri: str, name: str) -> str:
    """The address of a file below a folder: a query (a shared-access signature) goes with it."""
    if split_uri(folder_uri).scheme not in OF_URLS:
        return folder_uri + name
    parts = urlsplit(folder_uri)
    return parts._replace(path=parts.path + quote(name)).geturl()


def beside(uri: str, name: str) -> str:
    """The address of a file in the folder of another."""
    if split_uri(uri).scheme not in OF_URLS:
        return within(uri.rpartition("/")[0] + "/", name)
    parts = urlsplit(uri)
    return within(parts._replace(path=parts.path.rpartition("/")[0] + "/").geturl(), name)
