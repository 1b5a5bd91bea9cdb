"""A web site on this machine: a folder's files with range requests, a STAC API over its items, tokens, and faults.

/files/...      the folder, byte ranges as real servers give them
/stac           landing page of a STAC API: search by POST, pages, intersects, datetime, collections, filter
/token/<name>   a token for a collection, good for `token_seconds`
"""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

from shapely.geometry import shape

FAULTS = ("503", "429", "500", "cut", "short", "long", "stall", "reset")
"""Refusals; a body cut short; a length too small, too large; no answer; a connection closed without one."""
STALL = 1.5
"""Seconds that a stalled answer hangs: more than any reader in the tests waits."""


@dataclass
class Site:
    """What is served, and what was asked.

    Attributes:
        share: of requests that fail, each in one of `kinds`, by chance from `seed`.
        dead: paths that are never there.
        signed: whether files ask for a token that is still good.
    """

    folder: Path
    share: float = 0.0
    kinds: Sequence[str] = FAULTS
    dead: frozenset[str] = frozenset()
    signed: bool = False
    token_seconds: float = 3600.0
    page: int = 3
    seed: int = 0
    url: str = ""
    requests: int = 0
    faults: int = 0
    sent: int = 0
    """Bytes of files."""
    tokens: list[str] = field(default_factory=list)
    searches: list[dict[str, Any]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    expired: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self._random = random.Random(self.seed)

    def fault(self) -> str | None:
        with self.lock:
            self.requests += 1
            if self._random.random() >= self.share:
                return None
            self.faults += 1
            return self.kinds[self.faults % len(self.kinds)]

    def items(self) -> list[dict[str, Any]]:
        found = []
        for path in sorted(self.folder.rglob("*.json")):
            item = json.loads(path.read_text())
            if item.get("type") == "Feature":
                at = f"{self.url}/files/{path.relative_to(self.folder).as_posix()}"
                assets = {k: {**a, "href": urljoin(at, a["href"])} for k, a in item["assets"].items()}
                found.append({**item, "assets": assets, "links": []})
        return found

    def landing(self) -> dict[str, Any]:
        conforms = [
            "https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search",
            "https://api.stacspec.org/v1.0.0/item-search#filter", "http://www.opengis.net/spec/cql2/1.0/conf/cql2-json",
        ]  # fmt: skip
        search = {"rel": "search", "href": f"{self.url}/stac/search", "type": "application/geo+json", "method": "POST"}
        return {
            "type": "Catalog", "stac_version": "1.0.0", "id": "site", "description": "x", "conformsTo": conforms,
            "links": [{"rel": "self", "href": f"{self.url}/stac"}, search],
        }  # fmt: skip

    def search(self, body: dict[str, Any]) -> dict[str, Any]:
        start, end = body["datetime"].split("/")
        found = [
            item
            for item in self.items()
            if start <= item["properties"]["datetime"] <= end
            and shape(item["geometry"]).intersects(shape(body["intersects"]))
            and item["collection"] in body.get("collections", [item["collection"]])
            and _passes(body.get("filter"), item["properties"])
        ]
        first = int(body.get("token", 0))
        links = []
        if len(found) > first + self.page:
            follow = {"rel": "next", "href": f"{self.url}/stac/search", "method": "POST", "merge": True}
            links.append({**follow, "body": {"token": str(first + self.page)}})
        return {"type": "FeatureCollection", "features": found[first : first + self.page], "links": links}

    def token(self, collection: str) -> dict[str, str]:
        with self.lock:
            end = datetime.now(UTC) + timedelta(seconds=self.token_seconds)
            self.tokens.append(f"se={len(self.tokens)}&sig=secret{collection}{len(self.tokens)}")
            return {"msft:expiry": end.isoformat().replace("+00:00", "Z"), "token": self.tokens[-1]}

    def admits(self, query: str) -> bool:
        return not self.signed or (query in self.tokens and query not in self.expired)


def _passes(condition: dict[str, Any] | None, properties: dict[str, Any]) -> bool:
    """The part of CQL2 that is asked here: or, isNull, <=."""
    if condition is None:
        return True
    match condition["op"]:
        case "or":
            return any(_passes(part, properties) for part in condition["args"])
        case "isNull":
            return properties.get(condition["args"][0]["property"]) is None
        case "<=":
            value = properties.get(condition["args"][0]["property"])
            return value is not None and value <= condition["args"][1]
    raise AssertionError(condition)


@contextmanager
def serve(site: Site) -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.reply({})

        def do_HEAD(self) -> None:
            self.reply({})

        def do_POST(self) -> None:
            self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def reply(self, body: dict[str, Any]) -> None:
            with site.lock:
                site.at_once += 1
                site.most_at_once = max(site.most_at_once, site.at_once)
            try:
                place = urlsplit(self.path)
                self.respond(place.path, place.query, body, site.fault())
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                with site.lock:
                    site.at_once -= 1

        def respond(self, path: str, query: str, body: dict[str, Any], fault: str | None) -> None:
            if fault in ("503", "429", "500"):
                return self.send(int(fault), b"busy")
            if fault == "reset":
                self.close_connection = True
                return self.connection.shutdown(socket.SHUT_RDWR)
            if fault == "stall":
                time.sleep(STALL)
                self.close_connection = True
                return None
            if path == "/stac":
                return self.send(200, json.dumps(site.landing()).encode(), fault)
            if path == "/stac/search":
                site.searches.append(body or {k: v[0] for k, v in parse_qs(query).items()})
                return self.send(200, json.dumps(site.search(body)).encode(), fault)
            if path.startswith("/token/"):
                return self.send(200, json.dumps(site.token(path.split("/")[-1])).encode(), fault)
            return self.file(path.removeprefix("/files/"), query, fault)

        def file(self, name: str, query: str, fault: str | None) -> None:
            path = site.folder / name
            if name in site.dead or not path.is_file():
                return self.send(404, b"not here")
            if path.suffix == ".tif" and not site.admits(query):
                return self.send(403, b"<Error><Code>AuthenticationFailed</Code></Error>")
            wanted, size = self.headers.get("Range"), path.stat().st_size
            with path.open("rb") as file:
                if not wanted:
                    return self.send(200, file.read(), fault)
                first, last = (int(edge) for edge in wanted.removeprefix("bytes=").split("-"))
                if first >= size:
                    return self.send(416, b"")
                last = min(last, size - 1)
                file.seek(first)
                part = file.read(last - first + 1)
            with site.lock:
                site.sent += len(part)
            return self.send(206, part, fault, f"bytes {first}-{last}/{size}")

        def send(self, status: int, content: bytes, fault: str | None = None, part: str | None = None) -> None:
            length = len(content)
            if fault == "short":
                content, length = content[: length // 2], length // 2
            self.send_response(status)
            if part:
                self.send_header("Content-Range", part)
            self.send_header("Content-Length", str(length + 10 if fault == "long" else length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[: length // 2] if fault == "cut" else content)
            self.wfile.flush()
            if fault == "long":
                time.sleep(STALL)
            self.close_connection = self.close_connection or fault in ("cut", "long")

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 64

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that hangs up is no news."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        site.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()
