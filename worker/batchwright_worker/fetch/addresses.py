"""Addresses of the files of one artifact; pure."""

from __future__ import annotations

from urllib.parse import quote, urlsplit


def is_folder(uri: str) -> bool:
    """Does the path end in a slash?"""
    return urlsplit(uri).path.endswith("/")


def within(folder_uri: str, name: str) -> str:
    """The address of a file below a folder: a query (a shared-access signature) goes with it."""
    parts = urlsplit(folder_uri)
    path = quote(name) if parts.scheme in ("http", "https") else name
    return parts._replace(path=parts.path + path).geturl()


def beside(uri: str, name: str) -> str:
    """The address of a file in the folder of another."""
    parts = urlsplit(uri)
    return within(parts._replace(path=parts.path.rpartition("/")[0] + "/").geturl(), name)
