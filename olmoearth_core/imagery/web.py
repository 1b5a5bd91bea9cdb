"""Catalogue files as text, wherever they lie: a folder, https, s3. Waits and tries again on faults that may pass."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from olmoearth_core.errors import CatalogueError, TransientError
from olmoearth_core.imagery.access import Access, one_line, s3_fault
from olmoearth_core.imagery.address import is_url

Json = dict[str, Any]

PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses that may be another the next time."""
HINT = "Check imagery.catalogue in project.yaml."


class UnansweredError(TransientError):
    """A request without a usable answer."""

    def __init__(self, message: str, *, futile: bool = False, retry_after: float = 0.0):
        super().__init__(message)
        self.futile = futile
        self.retry_after = retry_after


class Web:
    """Reads JSON; one session, so that connections are used again. Safe between threads.

    Args:
        access: the settings by which servers are reached.
        requester_pays: whether the buckets of the catalogue have the reader pay.
    """

    def __init__(self, access: Access, *, requester_pays: bool = False):
        self._access, self._requester_pays = access, requester_pays

    def read(self, href: str) -> Any:
        """The JSON value at `href`, a path or a URL.

        Raises:
            CatalogueError: it cannot be read, or is no JSON.
            FileNotFoundError, IsADirectoryError, NotADirectoryError: of a path.
        """
        match urlsplit(href).scheme if is_url(href) else "":
            case "":
                text = Path(href).read_bytes()
            case "s3":
                text = self._patiently(lambda: self._read_s3(href))
            case "http" | "https":
                return self.ask(href)
            case scheme:
                raise CatalogueError(f"{href}: '{scheme}://' is not known; allowed are https://, s3:// and paths")
        return _parsed(text, href)

    def ask(self, href: str, body: Json | None = None, *, method: str = "GET") -> Any:
        """The JSON value that a server answers with.

        Args:
            href: an http or https URL.
            body: sent as JSON where the method is POST, else as the query.
            method: GET or POST.

        Raises:
            CatalogueError: no answer in all attempts, a refusal, or no JSON.
        """
        return _parsed(self._patiently(lambda: self._request(href, body, method)), href)

    def _patiently(self, attempt: Any) -> bytes:
        try:
            content: bytes = self._access.patiently(attempt)
        except TransientError as error:
            raise CatalogueError(f"{error}. {HINT}") from error
        return content

    def _request(self, href: str, body: Json | None, method: str) -> bytes:
        import requests

        sent: dict[str, Any] = {"json": body} if method == "POST" else {"params": body}
        limit = (min(10.0, self._access.timeout), self._access.timeout)
        try:
            answer = self._session.request(method, href, timeout=limit, **sent)
        except requests.TooManyRedirects as error:
            raise CatalogueError(f"{href}: cannot be read: its redirects lead in a circle. {HINT}") from error
        except requests.exceptions.SSLError as error:
            raise CatalogueError(f"{href}: cannot be reached safely ({innermost(error)}). {HINT}") from error
        except requests.ConnectTimeout as error:
            raise UnansweredError(f"{href}: cannot be reached: no answer in {limit[0]:g} s", futile=True) from error
        except requests.Timeout as error:
            raise UnansweredError(f"{href}: cannot be reached: no answer in {limit[1]:g} s") from error
        except requests.ConnectionError as error:
            # nobody listens, or nobody knows the name: the next seconds change nothing, and a person is waiting
            gone = any(word in str(error) for word in ("NameResolution", "Name or service", "refused", "unreachable"))
            host = urlsplit(href).netloc
            told = f"{href}: cannot be reached: {host} does not answer ({innermost(error)}). Is this machine online?"
            raise UnansweredError(told.rstrip("?") + "?" if gone else told, futile=gone) from error
        except requests.RequestException as error:  # a body that was cut short, among others
            raise UnansweredError(f"{href}: cannot be read ({innermost(error)})") from error
        if answer.status_code in PASSING:
            wait = answer.headers.get("Retry-After", "")
            raise UnansweredError(
                f"{href}: cannot be reached, or refuses with HTTP status {answer.status_code}: {_start(answer.text)}",
                retry_after=float(wait) if wait.isdigit() else 0.0,
            )
        if answer.status_code in (401, 403):
            raise CatalogueError(
                f"{href}: asks for credentials (HTTP status {answer.status_code}); this platform reads catalogues "
                f"that are open to all, or s3://. {HINT}"
            )
        if not answer.ok:
            raise CatalogueError(
                f"{href}: refuses with HTTP status {answer.status_code}: {_start(answer.text)}. {HINT}"
            )
        content: bytes = answer.content
        return content

    def _read_s3(self, href: str) -> bytes:
        from botocore.exceptions import BotoCoreError, ClientError
        from urllib3.exceptions import HTTPError

        place = urlsplit(href)
        payer = self._access.payer(self._requester_pays)
        try:
            answer = self._s3.get_object(Bucket=place.netloc, Key=place.path.lstrip("/"), **payer)
            content: bytes = answer["Body"].read()
        except (BotoCoreError, ClientError, HTTPError) as error:
            fault = s3_fault(error, href)
            if isinstance(fault, TransientError):
                raise fault from error
            raise CatalogueError(f"{fault} {HINT}") from error
        return content

    @cached_property
    def _session(self) -> Any:
        import requests
        from requests.adapters import HTTPAdapter

        session = requests.Session()
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(pool_maxsize=self._access.connections))
        session.headers["Accept"] = "application/geo+json, application/json"
        return session

    @cached_property
    def _s3(self) -> Any:
        return self._access.s3()


def _parsed(text: bytes, href: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:  # also what is no UTF-8
        start = text[:60].decode("utf-8", "replace")
        found = f"it begins with {' '.join(start.split())!r}" if text else "it is empty"
        raise CatalogueError(
            f"{href}: does not answer with STAC (not JSON: {one_line(error)}; {found}). {HINT}"
        ) from error


def innermost(error: BaseException) -> str:
    """The innermost reason of an error, which is the one that a person understands; without a URL's query."""
    inner: Any = error
    while isinstance(deeper := getattr(inner, "reason", None) or next(iter(inner.args), None), BaseException):
        inner = deeper
    return one_line(inner).rsplit(": ", 1)[-1].split("?")[0]


def _start(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= 120 else words[:117] + "..."
