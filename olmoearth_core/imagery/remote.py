"""Files behind URLs, as byte ranges: exactly the bytes that are asked for, each request with patience and a time limit.

GDAL could fetch for itself, but tells faults apart only by their wording, asks for a file's size with a request of its
own, and takes more bytes than it needs. Here a request either gives all bytes of its range, or says why not.
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from olmoearth_core.errors import ImageryError, TransientError
from olmoearth_core.imagery.access import Access
from olmoearth_core.imagery.signing import Signer
from olmoearth_core.imagery.web import PASSING, UnansweredError, innermost

PAGE = 16 * 1024
"""Bytes of the pages in which small reads are served: the header of most COGs is one."""
GAP = 4 * 1024
"""Bytes between two ranges that are fetched in one request with them."""
SMALL_FILE = 16 * 2**20
"""Bytes of a file that is taken whole from a server that serves no ranges."""
KEPT_HEADERS = 64 * 2**20
"""Bytes of first pages that are remembered, so that a file that is opened again costs no request."""


@dataclass(frozen=True)
class _Part:
    """Bytes of a file from `start` on."""

    start: int
    content: bytes

    def get(self, start: int, stop: int) -> bytes | None:
        if self.start <= start and stop <= self.start + len(self.content):
            return self.content[start - self.start : stop - self.start]
        return None


class Fetcher:
    """Fetches ranges of files over https and from S3; safe between threads.

    Args:
        access: the settings by which servers are reached; no host is asked for more than `access.connections` at once.
        count: told of the bytes that arrived.
    """

    def __init__(self, access: Access, count: Callable[[int], None] = lambda _: None):
        self._access = access
        self._count = count
        self._signer = Signer(access)
        self._first: OrderedDict[str, tuple[_Part, int]] = OrderedDict()
        self._kept = 0
        self._lock = threading.Lock()

    def first(self, address: str) -> tuple[_Part, int]:
        """The first page of a file (all of it, where its server serves no ranges), and the file's size in bytes.

        Raises:
            ImageryError, TransientError: as `get`.
        """
        with self._lock:
            if (known := self._first.get(address)) is not None:
                self._first.move_to_end(address)
                return known
        content, size = self._get(address, 0, PAGE)
        with self._lock:
            self._kept += len(content)
            kept = self._first[address] = _Part(0, content), size
            while self._kept > KEPT_HEADERS and len(self._first) > 1:
                self._kept -= len(self._first.popitem(last=False)[1][0].content)
            return kept

    def get(self, address: str, start: int, stop: int, size: int) -> bytes:
        """The bytes [start, stop) of a file of `size` bytes.

        Raises:
            ImageryError: it cannot be had, and trying again would not help (401, 403, 404, no ranges, another size).
            TransientError: no answer, 429, 5xx, a body that was cut short or stalled, in all attempts.
        """
        content, now = self._get(address, start, stop)
        if now != size:
            raise ImageryError(f"{_name(address)}: has {now} bytes now, and had {size} when it was opened")
        return content

    def etag(self, address: str) -> str:
        """What the server calls the version of a file's content, without quotes; empty where it says nothing.

        Raises:
            ImageryError: there are no credentials, or the address leads nowhere.
            TransientError: no answer.
        """
        with self._request(self._signer.url(address), address, 0, 1) as answer:  # a presigned URL permits GET alone
            return str(answer.headers.get("ETag", "")).strip('"') if answer.status_code in (200, 206) else ""

    def close(self) -> None:
        """Close the connections."""
        if "_session" in self.__dict__:
            self._session.close()

    def _get(self, address: str, start: int, stop: int) -> tuple[bytes, int]:
        try:
            return self._access.patiently(lambda: self._with_permission(address, start, stop))
        except TransientError as error:
            raise TransientError(
                f"{_shown(address)}: cannot be read at the moment: {error} ({self._access.attempts} attempts). "
                "Finished work is kept; the same command goes on."
            ) from error

    def _with_permission(self, address: str, start: int, stop: int) -> tuple[bytes, int]:
        """One attempt; a permission that is refused is asked for once more, as it may have expired."""
        if urlsplit(address).scheme not in ("http", "https", "s3"):
            raise ImageryError(
                f"{_name(address)}: its address begins with {address.split('://')[0]}://, not https or s3"
            )
        for last in (False, True):
            url = self._signer.url(address)
            answer = self._request(url, address, start, stop)
            with answer:
                if answer.status_code not in (400, 401, 403) or (answer.status_code == 400 and url == address):
                    return self._content(answer, address, start, stop)
                status = answer.status_code
            if last or not self._signer.renew(address, url):
                break
        raise self._signer.why_refused(address) or ImageryError(
            f"{_name(address)}: the server does not let us read it (HTTP status {status}). Does it need an account, or "
            "a catalogue that is known by name (imagery.catalogue: planetary-computer)?"
        )

    def _request(self, url: str, address: str, start: int, stop: int) -> Any:
        import requests

        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity", **self._signer.headers(address)}
        limit = (min(10.0, self._access.timeout), self._access.timeout)
        try:
            return self._session.get(url, headers=headers, timeout=limit, stream=True)
        except (requests.TooManyRedirects, requests.exceptions.InvalidURL) as error:
            raise ImageryError(f"{_name(address)}: its address leads nowhere ({innermost(error)})") from None
        except requests.RequestException as error:
            # without its cause, which names the address, permission and all
            raise UnansweredError(f"no answer from {urlsplit(url).netloc} ({innermost(error)})") from None

    def _content(self, answer: Any, address: str, start: int, stop: int) -> tuple[bytes, int]:
        """The bytes of the range and the size of the file, or why not."""
        name, status = _name(address), answer.status_code
        if status in PASSING or status >= 500:
            wait = answer.headers.get("Retry-After", "")
            raise UnansweredError(f"HTTP status {status}", retry_after=float(wait) if wait.isdigit() else 0.0)
        if status == 206:
            begin, end, size = _content_range(answer, name)
            content = self._body(answer)
            if begin != start or len(content) != end - begin + 1 or end + 1 < min(stop, size):
                raise UnansweredError(f"{stop - start} bytes were asked for, {len(content)} came")
            return content, size
        if status == 200:
            kind = answer.headers.get("Content-Type", "")
            if kind.startswith("text/html"):
                raise ImageryError(f"{name}: the server answers with a page, not with imagery; does it want a log-in?")
            size = int(answer.headers.get("Content-Length", SMALL_FILE + 1))
            if size > SMALL_FILE:
                raise ImageryError(f"{name}: its server does not serve parts of files (HTTP ranges), and it is large")
            content = self._body(answer)
            if len(content) != size:
                raise UnansweredError(f"{size} bytes were told, {len(content)} came")
            return (content, size) if start == 0 else (content[start:stop], size)
        if status in (404, 410):
            raise ImageryError(f"{name}: there is no such file (HTTP status {status})")
        if status == 416:
            raise ImageryError(f"{name}: is shorter than its header says; the file is cut off (HTTP status 416)")
        raise ImageryError(f"{name}: cannot be read (HTTP status {status})")

    def _body(self, answer: Any) -> bytes:
        """The whole body, within the time limit of a request."""
        import requests
        import urllib3

        end = time.monotonic() + self._access.timeout
        parts = []
        try:
            while part := answer.raw.read1(65536):  # what is there: a body that drips must not hold us
                parts.append(part)
                if time.monotonic() > end:
                    raise UnansweredError(f"the answer takes longer than {self._access.timeout:g} s")
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            if isinstance(error, UnansweredError):
                raise
            raise UnansweredError(f"the answer was cut short ({innermost(error)})") from None
        content = b"".join(parts)
        self._count(len(content))
        return content

    @cached_property
    def _session(self) -> Any:
        import requests
        from requests.adapters import HTTPAdapter

        session = requests.Session()
        for scheme in ("http://", "https://"):  # a connection too many waits for one that is free
            session.mount(scheme, HTTPAdapter(64, self._access.connections, pool_block=True))
        return session


class RemoteFile:
    """A file behind a URL, for GDAL, which opens cursors on it (`open`, as fsspec's files offer it).

    While GDAL reads nothing may be raised; what went wrong is kept in `fault`.

    Args:
        fetcher: gets the bytes.
        address: of the file.

    Raises:
        ImageryError, TransientError: the first page cannot be had.
    """

    mode = "rb"

    def __init__(self, fetcher: Fetcher, address: str):
        self.fault: ImageryError | TransientError | None = None
        self._fetcher, self._address = fetcher, address
        self._header, self.size = fetcher.first(address)
        self._pages: dict[int, _Part] = {}
        self._ahead: list[_Part] = []
        self.path, self.fs = _name(address), self

    def open(self, _path: str = "", _mode: str = "rb") -> Cursor:
        """A position in this file."""
        return Cursor(self)

    def prefetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Fetch what will be read next ([start, stop) each), neighbours in one request; forgets what was before.

        Raises:
            ImageryError, TransientError: they cannot be had.
        """
        self._ahead = []
        for start, stop in _merged(ranges):
            if self._header.get(start, min(stop, self.size)) is None:
                self._ahead.append(_Part(start, self._fetcher.get(self._address, start, stop, self.size)))

    def forget(self) -> None:
        """Let go of what was prefetched: GDAL has decoded it."""
        self._ahead = []

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes [start, stop); none after a fault."""
        if self.fault is None:
            try:
                return self._bytes(start, self.size if stop is None else stop)
            except (ImageryError, TransientError) as error:
                self.fault = error
        return b""

    def _bytes(self, start: int, stop: int) -> bytes:
        for part in (self._header, *self._ahead):
            if (content := part.get(start, stop)) is not None:
                return content
        if stop - start >= PAGE:
            return self._fetcher.get(self._address, start, stop, self.size)
        pages = [self._page(number) for number in range(start // PAGE, (stop - 1) // PAGE + 1)]
        joined = _Part(pages[0].start, b"".join(page.content for page in pages))
        return joined.get(start, stop) or b""

    def _page(self, number: int) -> _Part:
        if number not in self._pages:
            start, stop = number * PAGE, min((number + 1) * PAGE, self.size)
            known = self._header.get(start, stop)
            content = self._fetcher.get(self._address, start, stop, self.size) if known is None else known
            self._pages[number] = _Part(start, content)
        return self._pages[number]


class Cursor:
    """A position in a RemoteFile."""

    def __init__(self, file: RemoteFile):
        self._file = file
        self._position = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """Set the position: from the start, from where it is (1), or from the end (2)."""
        self._position = offset + (0, self._position, self._file.size)[whence]
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def read(self, count: int = -1) -> bytes:
        """Up to `count` bytes from the position on; fewer at the end."""
        stop = self._file.size if count < 0 else min(self._position + count, self._file.size)
        if self._position >= stop:
            return b""
        content = self._file.read(self._position, stop)
        self._position += len(content)
        return content

    def close(self) -> None:
        """Nothing is held open."""


def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges [start, stop) in order, those that nearly touch as one."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if merged and start - merged[-1][1] <= GAP:
            merged[-1] = merged[-1][0], max(merged[-1][1], stop)
        else:
            merged.append((start, stop))
    return merged


def _content_range(answer: Any, name: str) -> tuple[int, int, int]:
    """First and last byte, and the size of the whole file."""
    told = answer.headers.get("Content-Range", "")
    try:
        part, size = told.removeprefix("bytes").strip().split("/")
        first, last = part.split("-")
        return int(first), int(last), int(size)
    except ValueError as error:
        raise ImageryError(f"{name}: its server does not say which part of the file it sends ({told!r})") from error


def _shown(address: str) -> str:
    """An address without what may be secret in it."""
    return re.sub(r"//[^/@]*@", "//", address.split("?")[0])


def _name(address: str) -> str:
    return urlsplit(address).path.rsplit("/", 1)[-1]
