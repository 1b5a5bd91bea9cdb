"""Catalogues and the frozen search: static ones and APIs, and everything that can be wrong with them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import shapely
from rasters import LEFT, TOP, StacScene, edit_item, small, stac_item, write_catalogue
from shapely.geometry import box, mapping, shape

from olmoearth_core.errors import CatalogueError
from olmoearth_core.grid import Grid
from olmoearth_core.imagery.access import Access
from olmoearth_core.imagery.footprint import lonlat_bounds
from olmoearth_core.imagery.scene import SceneList, read_scenes
from olmoearth_core.imagery.search import (
    Query,
    search,
)
from olmoearth_core.progress import Silent

AREA = box(*lonlat_bounds(Grid("EPSG:32631").around((LEFT, TOP - 960, LEFT + 960, TOP))))
MAY = (date(2024, 5, 1), date(2024, 6, 1))


def find(catalogue: str | Path, root: Path = Path("/"), **changes: Any) -> SceneList:
    settings: dict[str, Any] = {
        "collections": (), "modalities": ("sentinel2_l2a",), "area": AREA, "spans": (MAY,), "max_cloud_cover": 90.0,
    }  # fmt: skip
    return search(Query(catalogue=str(catalogue), **(settings | changes)), root, Silent(), Access(first_pause=0.001))


# ------------------------------------------------------------------ static catalogues


def test_scenes_are_found_by_place_time_and_cloud(tmp_path: Path) -> None:
    catalogue = write_catalogue(
        tmp_path,
        [
            StacScene("good", "2024-05-31T23:59:59.9Z", small(), properties={"s2:processing_baseline": "05.10"}),
            StacScene("early", "2024-05-01T00:00:00Z", small(), cloud_cover=None),
            StacScene("june", "2024-06-01T00:00:00Z", small()),
            StacScene("cloudy", "2024-05-10", small(), cloud_cover=90.1),
            StacScene("far", "2024-05-10", small(LEFT + 30_000)),
            StacScene("radar", "2024-05-10", {"vv": small()["B02"]}),
            StacScene("landsat", "2024-05-10", {"blue": small()["B02"]}, properties={"platform": "landsat-8"}),
        ],
    )
    found = find(catalogue)
    assert [scene.id for scene in found.scenes] == ["early", "good"]
    good = found.scenes[1]
    assert good.assets == {"B02": "good/B02.tif"}
    assert good.mask == "good/SCL.tif"
    assert (good.offset, good.collection) == (1000, "test")
    assert found.scenes[0].cloud_cover is None
    assert Path(found.address(good, good.assets["B02"])) == tmp_path / "good" / "B02.tif"
    assert shape(mapping(AREA)).intersects(box(*good.bbox))


def test_nested_catalogues_common_names_and_loops(tmp_path: Path) -> None:
    write_catalogue(tmp_path / "deep", [StacScene("a", "2024-05-10", {"blue": small()["B02"], "scl": small()["SCL"]})])
    links = [{"rel": "child", "href": "deep/catalog.json"}, {"rel": "child", "href": "./catalog.json"}]
    top = tmp_path / "catalog.json"
    top.write_text(json.dumps({"type": "Catalog", "stac_version": "1.1.0", "id": "top", "links": links}))
    (scene,) = find("catalog.json", tmp_path).scenes
    assert scene.assets == {"B02": "deep/a/blue.tif"}
    assert scene.mask == "deep/a/scl.tif"


def test_only_the_collections_that_are_named(tmp_path: Path) -> None:
    catalogue = write_catalogue(
        tmp_path, [StacScene("a", "2024-05-10", small()), StacScene("b", "2024-05-10", small())]
    )
    edit_item(tmp_path, "b", lambda item: item.update(collection="other"))
    assert [scene.id for scene in find(catalogue, collections=("other",)).scenes] == ["b"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda item: item["properties"].update(datetime=None), "item a has no datetime"),
        (lambda item: item["properties"].update(datetime="last May"), "'last May'"),
        (lambda item: item.update(geometry=None), "item a has no geometry"),
        (lambda item: item.pop("assets"), "item a is no STAC Item"),
        (lambda item: item.update(type="Catalog"), "is no STAC Item"),
    ],
)
def test_items_that_cannot_be_used_are_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    catalogue = write_catalogue(tmp_path, [StacScene("a", "2024-05-10", small())])
    edit_item(tmp_path, "a", change)
    with pytest.raises(CatalogueError, match=sentence):
        find(catalogue)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "no such catalogue file"),
        ("<html>", "does not answer with STAC"),
        ("[1, 2]", "found a JSON list"),
        ('{"hello": 1}', "is no STAC catalogue .*hello"),
        ('{"type": "FeatureCollection", "features": []}', "'FeatureCollection'"),
        ('{"type": "Catalog", "stac_version": "1.0.0", "links": [{"rel": "item"}]}', "cannot be read as a STAC"),
        (
            '{"type": "Catalog", "stac_version": "1.0.0", "links": [{"rel": "item", "href": "x.json"}]}',
            r"x\.json, which",
        ),
    ],
)
def test_what_is_no_catalogue_is_refused_in_a_sentence(tmp_path: Path, content: str | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "catalog.json").write_text(content)
    with pytest.raises(CatalogueError, match=sentence) as caught:
        find("catalog.json", tmp_path)
    assert "\n" not in str(caught.value)


def test_no_scene_is_an_error_that_tells_why(tmp_path: Path) -> None:
    catalogue = write_catalogue(
        tmp_path,
        [StacScene("a", "2024-05-10", small(), cloud_cover=99), StacScene("b", "2024-07-10", small())],
    )
    with pytest.raises(CatalogueError) as caught:
        find(catalogue)
    assert "of 2 items" in str(caught.value)
    assert "1 lie outside the time (2024-05-01 to 2024-05-31)" in str(caught.value)
    assert "1 have more than 90 % cloud" in str(caught.value)
    with pytest.raises(CatalogueError, match=r"2 lie outside the area \(10.00 to 11.00 E"):
        find(catalogue, area=box(10, 50, 11, 51))


# ------------------------------------------------------------------ over http: STAC APIs and static catalogues


class _Site:
    """A web server on this machine: pages by path, a STAC API at /api when it has items, faults at the start."""

    def __init__(self, pages: dict[str, str] | None = None, items: list[dict[str, Any]] | None = None, faults: int = 0):
        self.pages, self.items, self.faults = pages or {}, items or [], faults
        self.searches: list[dict[str, Any]] = []
        self.url = ""

    def answer(self, path: str, body: dict[str, Any] | None) -> tuple[int, str]:
        if self.faults:
            self.faults -= 1
            return 503, "busy"
        if path == "/api/":
            return 200, json.dumps(self.landing())
        if path == "/api/search" and body is not None:
            self.searches.append(body)
            return 200, json.dumps(self.page(body))
        return (200, self.pages[path]) if path in self.pages else (404, "not here")

    def landing(self) -> dict[str, Any]:
        link = {"rel": "search", "href": f"{self.url}/api/search", "type": "application/geo+json", "method": "POST"}
        conforms = ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"]
        return {
            "type": "Catalog", "stac_version": "1.0.0", "id": "api", "description": "x", "conformsTo": conforms,
            "links": [{"rel": "self", "href": f"{self.url}/api/"}, {"rel": "root", "href": f"{self.url}/api/"}, link],
        }  # fmt: skip

    def page(self, body: dict[str, Any]) -> dict[str, Any]:
        """Two items a page, found by place and time as an API does."""
        start, end = body["datetime"].split("/")
        found = [
            item
            for item in self.items
            if start <= item["properties"]["datetime"] <= end
            and shape(item["geometry"]).intersects(shape(body["intersects"]))
            and item["collection"] in body.get("collections", [item["collection"]])
        ]
        first = body.get("from", 0)
        following = {"rel": "next", "href": f"{self.url}/api/search", "method": "POST", "merge": True}
        links = [{**following, "body": {"from": first + 2}}] if len(found) > first + 2 else []
        return {"type": "FeatureCollection", "features": found[first : first + 2], "links": links}


@contextmanager
def serve(site: _Site) -> Iterator[_Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(None)

        def do_POST(self) -> None:
            self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def reply(self, body: dict[str, Any] | None) -> None:
            status, text = site.answer(self.path, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        site.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


def api_items(*names: str, collection: str = "sentinel-2-l2a") -> list[dict[str, Any]]:
    hrefs = {"B02": "https://cogs.example.org/{}/B02.tif", "SCL": "https://cogs.example.org/{}/SCL.tif"}
    return [
        stac_item(StacScene(name, f"2024-05-1{i}", small()), {k: v.format(name) for k, v in hrefs.items()}, collection)
        for i, name in enumerate(names)
    ]


def test_an_api_is_searched_with_its_pages_and_addresses_kept() -> None:
    items = api_items("a", "b", "c") + api_items("other", collection="sentinel-1-grd")
    with serve(_Site(items=items, faults=1)) as site:
        found = find(f"{site.url}/api/", spans=(MAY, (date(2024, 7, 1), date(2024, 7, 2))))
    assert [scene.id for scene in found.scenes] == ["a", "b", "c"]
    assert found.address(found.scenes[0], found.scenes[0].assets["B02"]) == "https://cogs.example.org/a/B02.tif"
    first = site.searches[0]
    assert first["collections"] == ["sentinel-2-l2a"]
    assert first["datetime"] == "2024-05-01T00:00:00Z/2024-05-31T23:59:59Z"
    assert len(site.searches) == 3  # two pages, and the second span


def test_an_area_of_many_corners_is_sent_as_its_hull() -> None:
    rough = shapely.union_all([AREA, *(box(3 + i / 50, 42 + (i % 2) / 50, 3.01 + i / 50, 42.5) for i in range(200))])
    with serve(_Site(items=api_items("a"))) as site:
        find(f"{site.url}/api/", area=rough)
    sent = shape(site.searches[0]["intersects"])
    assert shapely.count_coordinates(sent) < 500
    assert sent.contains(AREA)


def test_a_static_catalogue_over_http(tmp_path: Path) -> None:
    write_catalogue(tmp_path, [StacScene("a", "2024-05-10", small())])
    pages = {f"/x/{p.relative_to(tmp_path).as_posix()}": p.read_text() for p in tmp_path.rglob("*.json")}
    with serve(_Site(pages)) as site:
        found = find(f"{site.url}/x/catalog.json")
        assert found.scenes[0].assets["B02"] == "a/B02.tif"
        assert found.address(found.scenes[0], "a/B02.tif") == f"{site.url}/x/a/B02.tif"
        with pytest.raises(CatalogueError, match="HTTP status 404"):
            find(f"{site.url}/y/catalog.json")


def test_a_server_that_is_down_is_told() -> None:
    with serve(_Site()) as site:
        pass
    with pytest.raises(CatalogueError, match="cannot be reached"):
        find(f"{site.url}/api/")
    with serve(_Site(faults=100)) as site, pytest.raises(CatalogueError, match="cannot be reached, or refuses"):
        find(f"{site.url}/api/")


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(CatalogueError, match=r"ftp://.*allowed are"):
        find("ftp://x.org/catalog.json")


# ------------------------------------------------------------------ answers that are no STAC, and other catalogues


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ("<!DOCTYPE html><html>Sign in</html>", "does not answer with STAC .*begins with '<!DOCTYPE html>"),
        ("", "does not answer with STAC .*it is empty"),
        ("[]", "found a JSON list"),
        ('{"type": "Catalog", "stac_version": "1.0.0", "li', "does not answer with STAC .not JSON"),
        ('{"message": "quota exceeded"}', "is no STAC catalogue .*message"),
    ],
)
def test_what_a_server_answers_that_is_no_stac_is_told(page: str, sentence: str) -> None:
    with serve(_Site({"/x": page})) as site, pytest.raises(CatalogueError, match=sentence) as caught:
        find(f"{site.url}/x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ({"type": "FeatureCollection"}, "cannot be read as a STAC catalogue .KeyError: 'features'"),
        ({"features": {"a": 1}}, "does not answer a search with items"),
        ({"features": ["a"]}, "names a JSON str as an item"),
        ([], "cannot be read as a STAC catalogue"),
    ],
)
def test_a_search_that_is_not_answered_with_items_is_told(answer: Any, sentence: str) -> None:
    site = _Site()
    site.page = lambda body: answer  # type: ignore[method-assign]
    with serve(site), pytest.raises(CatalogueError, match=sentence):
        find(f"{site.url}/api/")


def test_pages_that_turn_in_a_circle_are_told() -> None:
    site = _Site(items=api_items("a", "b", "c"))
    link = {"rel": "next", "href": "/api/search", "method": "POST", "merge": True, "body": {"from": 0}}
    site.page = lambda body: {"features": api_items("a"), "links": [link]}  # type: ignore[method-assign]
    with serve(site), pytest.raises(CatalogueError, match="names itself as the next one"):
        find(f"{site.url}/api/")


def test_redirects_in_a_circle_are_told() -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", "/round")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        with pytest.raises(CatalogueError, match="redirects lead in a circle"):
            find(f"http://127.0.0.1:{server.server_port}/catalog.json")
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda item: item.update(bbox=["a", 1, 2, 3]), "has a bbox that is none"),
        (lambda item: item["assets"]["B02"].pop("href"), "its asset B02 has no address"),
        (lambda item: item["geometry"].update(type="Circle"), "item a: its geometry is none"),
    ],
)
def test_more_items_that_cannot_be_used_are_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    catalogue = write_catalogue(tmp_path, [StacScene("a", "2024-05-10", small())])
    edit_item(tmp_path, "a", change)
    with pytest.raises(CatalogueError, match=sentence):
        find(catalogue)


def test_clouds_are_left_to_an_api_that_knows_filters() -> None:
    plain, able = _Site(items=api_items("a")), _Site(items=api_items("a"))
    landing = able.landing
    more = ["https://api.stacspec.org/v1.0.0/item-search#filter", "http://www.opengis.net/spec/cql2/1.0/conf/cql2-json"]
    able.landing = lambda: {**landing(), "conformsTo": more}  # type: ignore[method-assign]
    for site in (plain, able):
        with serve(site):
            find(f"{site.url}/api/", max_cloud_cover=40.0)
    assert "filter" not in plain.searches[0]
    assert able.searches[0]["filter-lang"] == "cql2-json"
    limit = able.searches[0]["filter"]["args"][1]
    assert limit == {"op": "<=", "args": [{"property": "eo:cloud_cover"}, 40.0]}


def test_alternate_addresses_are_taken_where_the_preset_prefers_them() -> None:
    items = api_items("a", collection="landsat-c2l1")
    for name, asset in items[0]["assets"].items():
        asset["alternate"] = {"s3": {"href": f"s3://usgs-landsat/a/{name}.TIF"}}
    with serve(_Site(items=items)) as site:
        found = find(f"usgs@{site.url}/api/", collections=("landsat-c2l1",))
        (scene,) = found.scenes
        address = found.address(scene, scene.assets["B02"])
        assert address == "s3://usgs-landsat/a/B02.TIF"
        assert address.requester_pays
        own = find(f"{site.url}/api/", collections=("landsat-c2l1",))
        assert own.scenes[0].assets["B02"] == "https://cogs.example.org/a/B02.tif"


def test_each_modality_has_its_catalogue(tmp_path: Path) -> None:
    write_catalogue(tmp_path / "one", [StacScene("a", "2024-05-10", small())])
    catalogues = {"sentinel2_l2a": "one/catalog.json"}
    query = Query(catalogues, {"sentinel2_l2a": ("test",)}, ("sentinel2_l2a",), AREA, (MAY,), 90.0)
    found = search(query, tmp_path, Silent())
    found.write(tmp_path / "list.json")
    again = read_scenes(tmp_path / "list.json", tmp_path)
    assert again.catalogue == catalogues
    assert again.query["collections"] == {"sentinel2_l2a": ["test"]}
    assert again.address(again.scenes[0], again.scenes[0].assets["B02"]) == str(tmp_path / "one" / "a" / "B02.tif")
