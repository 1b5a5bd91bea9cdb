"""Catalogues: a static STAC catalogue (folder, https, s3) or a STAC API, read as plain STAC Items.

What comes out is JSON: which items are scenes of which modality is decided in search.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from shapely.geometry.base import BaseGeometry

from olmoearth_core.errors import CatalogueError, ImageryError
from olmoearth_core.imagery.access import Access, one_line
from olmoearth_core.imagery.address import is_url, join
from olmoearth_core.imagery.presets import Preset, locate, preset_of
from olmoearth_core.imagery.web import HINT, Json, Web
from olmoearth_core.progress import Progress

MAX_VERTICES = 500
"""An outline with more is sent to an API as its convex hull."""
PAGE = 200
"""Items that an API is asked for at once."""
MAX_PAGES = 5000
"""A search with more is one that turns in a circle."""

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
        access: the settings by which servers are reached.

    Raises:
        CatalogueError: it is missing, out of reach, or does not answer with STAC.
    """

    def __init__(self, name: str, root: Path, access: Access | None = None):
        self.name = name
        self.href = locate(name, root)
        self._preset = preset_of(name)
        self._access = access or Access()
        self._items: list[FoundItem] | None = None
        self._web = Web(self._access, requester_pays=self._preset.requester_pays)
        with self._clear_errors(self.href):
            self._node = self._read(self.href)
        self.is_api = _is_api(self._node)
        if not self.is_api and not _is_catalogue(self._node):
            raise CatalogueError(
                f"{name}: is no STAC catalogue (found {_describe(self._node)}). "
                "Set imagery.catalogue in project.yaml to the catalog.json of a static catalogue or to a STAC API."
            )

    def items(
        self,
        area: BaseGeometry,
        spans: Sequence[Span],
        collections: Sequence[str],
        progress: Progress,
        *,
        max_cloud_cover: float = 100.0,
    ) -> list[FoundItem]:
        """The items that may matter: those in `area` and `spans` of an API, all of a static catalogue.

        Args:
            area: in degrees, within -180 to 180.
            spans: [start, end) pairs.
            collections: ids; of a static catalogue all when empty.
            progress: told of each item.
            max_cloud_cover: per cent; an API that can is asked for no cloudier ones. Others may come as well.

        Raises:
            CatalogueError: a part of the catalogue cannot be read, or is not STAC.
        """
        wanted = set(collections)
        with progress.bar(f"{'search' if self.is_api else 'read'} {self.name}") as advance:
            found = []
            for item in self._search(area, spans, collections, max_cloud_cover) if self.is_api else self._all():
                found.append(FoundItem(_preferred(item.item, self._preset), item.href))
                advance(1)
        return [f for f in found if not wanted or f.item.get("collection") in wanted]

    def _all(self) -> Iterator[FoundItem]:
        """Every item of a static catalogue, read once however often it is asked for."""
        if self._items is not None:
            yield from self._items
            return
        read = []
        for item in self._walk():
            read.append(item)
            yield item
        self._items = read

    def _walk(self) -> Iterator[FoundItem]:
        """Every item below the root of a static catalogue, each once; the files of one level are read together."""
        seen = {self.href}
        nodes = [(self.href, self._node)]
        with ThreadPoolExecutor(self._access.connections if is_url(self.href) else 1) as pool:
            while nodes:
                targets = []
                for place, node in nodes:
                    with self._clear_errors(place):
                        links = [link for link in node["links"] if link.get("rel") in ("item", "child")]
                        named = [(link["rel"], join(place, link["href"])) for link in links]
                    for kind, href in named:
                        if href not in seen:
                            seen.add(href)
                            targets.append((kind, href))
                nodes = []
                values = pool.map(self._read_clearly, [href for _, href in targets])
                for (kind, href), value in zip(targets, values, strict=True):
                    if kind == "child":
                        nodes.append((href, value))
                    else:
                        yield FoundItem(_checked(value, href), href)

    def _search(
        self, area: BaseGeometry, spans: Sequence[Span], collections: Sequence[str], max_cloud_cover: float
    ) -> Iterator[FoundItem]:
        from shapely import count_coordinates
        from shapely.geometry import mapping

        with self._clear_errors(self.href):
            href, method = _search_link(self._node, self.href)
        asked: Json = {
            "intersects": mapping(area.convex_hull if count_coordinates(area) > MAX_VERTICES else area),
            "limit": PAGE,
            **({"collections": list(collections)} if collections else {}),
            **_cloud_condition(self._node, max_cloud_cover, method),
        }
        for start, end in spans:
            period = f"{start}T00:00:00Z/{end - timedelta(days=1)}T23:59:59Z"
            for item in self._pages(href, {**asked, "datetime": period}, method):
                with self._clear_errors(self.href):
                    yield FoundItem(_checked(item, self.href), self.href)

    def _pages(self, href: str, body: Json, method: str) -> Iterator[Json]:
        """The items of a search, page by page."""
        first = href
        sent: Json | None = body if method == "POST" else _as_query(body)
        for _ in range(MAX_PAGES):
            with self._clear_errors(first):
                page = self._web.ask(href, sent, method=method)
                items = page["features"]
                following = [link for link in page.get("links", []) if link.get("rel") == "next"]
            if not isinstance(items, list):
                raise CatalogueError(f"{first}: does not answer a search with items (found {_describe(items)}). {HINT}")
            yield from items
            if not following or not items:
                return
            with self._clear_errors(first):
                link = following[0]
                method = str(link.get("method", "GET")).upper()
                own = link.get("body") or {}
                asked = (href, sent)
                href = join(first, link["href"])
                sent = None if method == "GET" else {**body, **own} if link.get("merge") else own
            if (href, sent) == asked:
                raise CatalogueError(f"{first}: a page of its answer names itself as the next one. {HINT}")
        raise CatalogueError(f"{first}: a search has more than {MAX_PAGES} pages; narrow the area or the time.")

    def _read_clearly(self, href: str) -> Json:
        with self._clear_errors(href):
            return self._read(href)

    def _read(self, href: str) -> Json:
        value = self._web.read(href)
        if not isinstance(value, dict):
            raise CatalogueError(f"{href}: is no STAC (found {_describe(value)})")
        return value

    @contextmanager
    def _clear_errors(self, href: str) -> Iterator[None]:
        """Turn whatever goes wrong with reading `href` into one sentence."""
        part = "" if href == self.href else f", which {self.href} names"
        try:
            yield
        except CatalogueError:
            raise
        except ImageryError as error:
            raise CatalogueError(f"{href}: {error}") from error
        except IsADirectoryError as error:
            raise CatalogueError(f"{href}{part}: is a folder; name the JSON file in it. {HINT}") from error
        except (FileNotFoundError, NotADirectoryError) as error:
            raise CatalogueError(f"{href}{part}: no such catalogue file. {HINT}") from error
        except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
            detail = f"{type(error).__name__}: {one_line(error)}"
            raise CatalogueError(f"{href}: cannot be read as a STAC catalogue ({detail}). {HINT}") from error


def _search_link(node: Json, href: str) -> tuple[str, str]:
    """Where an API is searched, and how: with POST where it can, as outlines are long."""
    links = [link for link in node["links"] if link.get("rel") == "search"]
    best = next((link for link in links if str(link.get("method", "GET")).upper() == "POST"), links[0])
    return join(href, best["href"]), str(best.get("method", "GET")).upper()


def _cloud_condition(node: Json, limit: float, method: str) -> Json:
    """The condition by which an API leaves out clouds, in the language that it says it knows; none where it knows none.

    Scenes that do not say how cloudy they are (radar) must stay: `query` would drop them, so only those may be asked
    for that are not cloudier, or say nothing, which `filter` alone can express.
    """
    conforms = [str(uri) for uri in node.get("conformsTo", [])]
    if limit >= 100 or method != "POST" or not any("item-search#filter" in uri for uri in conforms):
        return {}
    if not any(uri.endswith("cql2-json") for uri in conforms):
        return {}
    cover = {"property": "eo:cloud_cover"}
    unknown, clear = {"op": "isNull", "args": [cover]}, {"op": "<=", "args": [cover, limit]}
    return {"filter-lang": "cql2-json", "filter": {"op": "or", "args": [unknown, clear]}}


def _as_query(body: Json) -> Json:
    """The body of a search as the query of a GET request."""
    query = {**body, "intersects": json.dumps(body["intersects"])}
    return {**query, "collections": ",".join(body["collections"])} if "collections" in body else query


def _preferred(item: Json, preset: Preset) -> Json:
    """The item with the addresses of its assets that the catalogue's preset prefers, where they are given."""
    if not preset.prefers:
        return item
    assets = {}
    for name, asset in item["assets"].items():
        other = (asset.get("alternate") or {}).get(preset.prefers) or {}
        assets[name] = {**asset, "href": other["href"]} if other.get("href") else asset
    return {**item, "assets": assets}


def _is_api(node: Json) -> bool:
    return any(link.get("rel") == "search" for link in node.get("links") or [] if isinstance(link, dict))


def _is_catalogue(node: Json) -> bool:
    return "stac_version" in node and isinstance(node.get("links"), list) and node.get("type") != "Feature"


def _checked(item: Any, href: str) -> Json:
    """An item that has what every STAC Item must have."""
    if not isinstance(item, dict):
        raise CatalogueError(f"{href}: names {_describe(item)} as an item; correct the catalogue")
    name = item.get("id", "without id")
    whole = isinstance(item.get("properties"), dict) and isinstance(item.get("assets"), dict) and "id" in item
    if item.get("type") != "Feature" or not whole:
        raise CatalogueError(f"{href}: item {name} is no STAC Item (found {_describe(item)}); correct the catalogue")
    if not (item["properties"].get("datetime") or item["properties"].get("start_datetime")):
        raise CatalogueError(f"{href}: item {name} has no datetime; a scene needs one. Correct the catalogue")
    if not item.get("bbox") or not item.get("geometry"):
        raise CatalogueError(f"{href}: item {name} has no geometry and bbox; a scene needs both. Correct the catalogue")
    box = item["bbox"]
    if not isinstance(box, list) or len(box) not in (4, 6) or not all(_finite(edge) for edge in box):
        raise CatalogueError(f"{href}: item {name} has a bbox that is none ({box!r}); correct the catalogue")
    if odd := [key for key, asset in item["assets"].items() if not isinstance(asset, dict) or not asset.get("href")]:
        raise CatalogueError(f"{href}: item {name}: its asset {odd[0]} has no address (href); correct the catalogue")
    return item


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6


def _describe(value: Any) -> str:
    if isinstance(value, dict):
        kind = value.get("type")
        return (
            f"a JSON object of type {kind!r}"
            if kind
            else f"a JSON object with {', '.join(list(value)[:4]) or 'no keys'}"
        )
    return f"a JSON {type(value).__name__}"
