"""Catalogues: a static STAC catalogue (folder, https, s3) or a STAC API, read as plain STAC Items.

What comes out is JSON: which items are scenes of which modality is decided in search.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shapely.geometry.base import BaseGeometry

from olmoearth_core.errors import CatalogueError
from olmoearth_core.imagery.address import is_url, join
from olmoearth_core.imagery.presets import locate
from olmoearth_core.progress import Progress

TIMEOUT = 30.0
"""Seconds a server may take for one answer."""
MAX_VERTICES = 500
"""An outline with more is sent to an API as its convex hull."""

Json = dict[str, Any]
Span = tuple[date, date]


@dataclass(frozen=True)
class FoundItem:
    """A STAC Item and where its JSON lies (relative addresses in it start there)."""

    item: Json
    href: str


class Catalogue:
    """A catalogue as project.yaml names it.

    Args:
        name: a preset's name, a URL, or a path (`presets.locate`).
        root: the folder that a path starts from.

    Raises:
        CatalogueError: it is missing, out of reach, or does not answer with STAC.
    """

    def __init__(self, name: str, root: Path):
        self.name = name
        self.href = locate(name, root)
        with self._clear_errors(self.href):
            self._node = self._read(self.href)
        self.is_api = _is_api(self._node)
        if not self.is_api and not _is_catalogue(self._node):
            raise CatalogueError(
                f"{name}: is no STAC catalogue (found {_describe(self._node)}). "
                "Set imagery.catalogue in project.yaml to the catalog.json of a static catalogue or to a STAC API."
            )

    def items(
        self, area: BaseGeometry, spans: Sequence[Span], collections: Sequence[str], progress: Progress
    ) -> list[FoundItem]:
        """The items that may matter: those in `area` and `spans` of an API, all of a static catalogue.

        Args:
            area: in degrees.
            spans: [start, end) pairs.
            collections: ids; of a static catalogue all when empty.

        Raises:
            CatalogueError: a part of the catalogue cannot be read, or is not STAC.
        """
        found = self._search(area, spans, collections, progress) if self.is_api else self._walk(progress)
        wanted = set(collections)
        return [f for f in found if not wanted or f.item.get("collection") in wanted]

    def _walk(self, progress: Progress) -> list[FoundItem]:
        """Every item below the root of a static catalogue, each once."""
        found: list[FoundItem] = []
        seen = {self.href}
        waiting = [(self.href, self._node)]
        with progress.bar(f"read {self.name}") as advance:
            while waiting:
                place, node = waiting.pop()
                with self._clear_errors(place):
                    links = [link for link in node["links"] if link.get("rel") in ("item", "child")]
                    targets = [(link["rel"], join(place, link["href"])) for link in links]
                for kind, href in targets:
                    if href in seen:
                        continue
                    seen.add(href)
                    with self._clear_errors(href):
                        value = self._read(href)
                    if kind == "child":
                        waiting.append((href, value))
                    else:
                        found.append(FoundItem(_checked(value, href), href))
                        advance(1)
        return found

    def _search(
        self, area: BaseGeometry, spans: Sequence[Span], collections: Sequence[str], progress: Progress
    ) -> list[FoundItem]:
        from pystac_client import Client
        from shapely import count_coordinates
        from shapely.geometry import mapping

        outline = mapping(area.convex_hull if count_coordinates(area) > MAX_VERTICES else area)
        found: list[FoundItem] = []
        with self._clear_errors(self.href), progress.bar(f"search {self.name}") as advance:
            client = Client.open(self.href, stac_io=_web())
            for start, end in spans:
                period = f"{start}T00:00:00Z/{end - timedelta(days=1)}T23:59:59Z"
                search = client.search(
                    intersects=outline, datetime=period, collections=list(collections) or None, limit=200
                )
                for item in search.items_as_dicts():
                    found.append(FoundItem(_checked(item, self.href), self.href))
                    advance(1)
        return found

    def _read(self, href: str) -> Json:
        value = json.loads(_read_text(href))
        if not isinstance(value, dict):
            raise CatalogueError(f"{href}: is no STAC (found {_describe(value)})")
        return value

    @contextmanager
    def _clear_errors(self, href: str) -> Iterator[None]:
        """Turn whatever goes wrong with reading `href` into one sentence."""
        from pystac import STACError
        from pystac_client.exceptions import APIError

        hint = "Check imagery.catalogue in project.yaml."
        try:
            yield
        except CatalogueError:
            raise
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            part = "" if href == self.href else f", which {self.href} names"
            if isinstance(error, IsADirectoryError):
                raise CatalogueError(f"{href}{part}: is a folder; name the JSON file in it. {hint}") from error
            raise CatalogueError(f"{href}{part}: no such catalogue file. {hint}") from error
        except ValueError as error:  # also what is no UTF-8
            raise CatalogueError(f"{href}: does not answer with STAC (not JSON: {_one_line(error)}). {hint}") from error
        except APIError as error:
            code = getattr(error, "status_code", None)
            status = f" with HTTP status {code}" if code else ""
            raise CatalogueError(
                f"{href}: cannot be reached, or refuses{status}: {_one_line(error)}. {hint}"
            ) from error
        except (OSError, STACError, KeyError, TypeError, AttributeError, NotImplementedError) as error:
            detail = f"{type(error).__name__}: {_one_line(error)}"
            raise CatalogueError(f"{href}: cannot be read as a STAC catalogue ({detail}). {hint}") from error


def _read_text(href: str) -> str:
    match urlsplit(href).scheme if is_url(href) else "":
        case "":
            return Path(href).read_text(encoding="utf-8")
        case "s3":
            return _read_s3(href)
        case "http" | "https":
            text: str = _web().read_text(href)
            return text
        case scheme:
            raise CatalogueError(f"{href}: '{scheme}://' is not known; allowed are https://, s3:// and paths")


def _read_s3(href: str) -> str:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    place = urlsplit(href)
    try:
        answer = boto3.client("s3").get_object(Bucket=place.netloc, Key=place.path.lstrip("/"))
        return str(answer["Body"].read().decode())
    except (BotoCoreError, ClientError) as error:
        raise CatalogueError(
            f"{href}: cannot be read from S3 ({_one_line(error)}). Check the address and the AWS_* settings."
        ) from error


def _web() -> Any:
    """Reads over http: waits, and tries again on 429 and 5xx."""
    from pystac_client.stac_api_io import StacApiIO
    from urllib3 import Retry

    passing = (429, 500, 502, 503, 504)
    retry = Retry(total=5, backoff_factor=0.5, backoff_jitter=0.5, status_forcelist=passing, allowed_methods=None)
    return StacApiIO(timeout=TIMEOUT, max_retries=retry)


def _is_api(node: Json) -> bool:
    return any(link.get("rel") == "search" for link in node.get("links", []) if isinstance(link, dict))


def _is_catalogue(node: Json) -> bool:
    return "stac_version" in node and isinstance(node.get("links"), list) and node.get("type") != "Feature"


def _checked(item: Json, href: str) -> Json:
    """An item that has what every STAC Item must have."""
    name = item.get("id", "without id")
    if item.get("type") != "Feature" or not isinstance(item.get("properties"), dict) or "assets" not in item:
        raise CatalogueError(f"{href}: item {name} is no STAC Item (found {_describe(item)}); correct the catalogue")
    if not (item["properties"].get("datetime") or item["properties"].get("start_datetime")):
        raise CatalogueError(f"{href}: item {name} has no datetime; a scene needs one. Correct the catalogue")
    if not item.get("bbox") or not item.get("geometry"):
        raise CatalogueError(f"{href}: item {name} has no geometry and bbox; a scene needs both. Correct the catalogue")
    return item


def _describe(value: Any) -> str:
    if isinstance(value, dict):
        kind = value.get("type")
        return (
            f"a JSON object of type {kind!r}"
            if kind
            else f"a JSON object with {', '.join(list(value)[:4]) or 'no keys'}"
        )
    return f"a JSON {type(value).__name__}"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:197] + "..."
