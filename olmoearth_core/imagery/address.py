"""Addresses of files that lie in a folder or behind a URL: https, s3."""

from __future__ import annotations

import os
import posixpath
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from urllib.request import url2pathname


def is_url(address: str) -> bool:
    """Whether an address is a URL rather than a path."""
    return "://" in address


class Address(str):
    """Where an asset is read: a path or a URL, and what its server wants. Never frozen, never shown with a token."""

    __slots__ = ("requester_pays", "token_url")
    requester_pays: bool
    """Whether the bucket has the reader pay."""
    token_url: str
    """Where the token is given that the address has to carry; empty where none is needed."""

    def __new__(cls, place: str, *, token_url: str = "", requester_pays: bool = False) -> Address:
        """`place` as it is, or as the text of an Address that already says more."""
        address = super().__new__(cls, place)
        address.token_url, address.requester_pays = token_url, requester_pays
        return address


def join(file: str, href: str) -> str:
    """`href` as it stands in `file`, made absolute: a URL or a path is kept, the rest starts at the file's folder."""
    if href.startswith("file://"):
        return url2pathname(urlsplit(href).path)
    if is_url(href):
        return href
    if not is_url(file):
        return os.path.normpath(os.path.join(os.path.dirname(file), href))  # noqa: PTH118, PTH120 (many thousand times)
    base = urlsplit(file)  # urljoin knows no s3
    path = href if href.startswith("/") else posixpath.join(posixpath.dirname(base.path), href)
    return urlunsplit((base.scheme, base.netloc, posixpath.normpath(path), "", ""))


def relative(address: str, file: str) -> str:
    """`address` (absolute) as seen from the folder of `file`, so that `join(file, ...)` gives it back.

    A URL is kept where `file` lies elsewhere.
    """
    if is_url(file):
        here, there = urlsplit(file), urlsplit(address)
        if (here.scheme, here.netloc) != (there.scheme, there.netloc) or there.query:
            return address
        return posixpath.relpath(there.path, posixpath.dirname(here.path) or "/")
    return address if is_url(address) else Path(os.path.relpath(address, Path(file).parent)).as_posix()
