"""An area over several UTM zones: each pixel is one zone's, and one tile's."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod, Transformer
from shapely.geometry import MultiPolygon, Point, Polygon, box, mapping

from olmoearth_core.errors import MappingError
from olmoearth_core.grid import Grid, PixelBox
from olmoearth_core.imagery.search import grown, search_area
from olmoearth_core.inference.area import Area, load_areas
from olmoearth_core.inference.plan import Layout, plan_tiles
from olmoearth_core.inference.zones import parts_of
from olmoearth_core.labels.vector import read_area

LAYOUT = Layout(tile_size=64, window_size=16, patch_size=4, stride=12)


PROGRAM = """
import json, re, sys, time
from pathlib import Path
from olmoearth_core.inference.area import load_areas
from olmoearth_core.inference.plan import Layout, plan_tiles, tile_windows

path, layout = Path(sys.argv[1]), Layout(tile_size=512, window_size=64, patch_size=8, stride=48)
start = time.process_time()
areas = load_areas(path, path.name, crs=None, resolution=10.0)
tiles, windows = plan_tiles(areas, layout)
seconds = time.process_time() - start
# not ru_maxrss: Linux begins it with what the process was before exec, a copy of the one that runs the tests
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
one = tiles[len(tiles) // 2]
area = next(a for a in areas if a.grid.crs == one.crs)
again = len(tile_windows(area, area.grid.box(one.column, one.row, one.width, one.height), layout))
parts = sum(len(a.parts) for a in areas)
told = {"areas": len(areas), "parts": parts, "tiles": len(tiles), "windows": windows, "again": again}
told |= {"computed": sum(tile.windows for tile in tiles), "of_one": one.windows}
print(json.dumps(told | {"seconds": seconds, "megabytes": peak / 1024}))
"""


def save(path: Path, *geometries: shapely.Geometry) -> Path:
    features = [
        {
            "type": "Feature",
            "properties": {"oe_start_time": "2024-01-01T00:00:00+00:00", "oe_end_time": "2024-12-31T00:00:00+00:00"},
            "geometry": mapping(geometry),
        }
        for geometry in geometries
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def load(path: Path, crs: str | None = None, resolution: float = 10.0) -> tuple[Area, ...]:
    return load_areas(path, path.name, crs=crs, resolution=resolution)


def degrees(box: PixelBox) -> tuple[np.ndarray, np.ndarray]:
    """Longitude and latitude, (H, W) each, of the centres of a box's pixels."""
    x, y = np.meshgrid(*box.centres)
    return Transformer.from_crs(box.grid.crs, "EPSG:4326", always_xy=True).transform(x, y)


def far(meridian: float, latitude: float) -> list[Polygon]:
    """Two specks that keep an area from staying in one zone."""
    return [box(meridian + d, latitude, meridian + d + 0.0003, latitude + 0.0003) for d in (-2.1, 2.1)]


corner = st.tuples(st.floats(-0.004, 0.004), st.floats(0, 0.004))


@settings(deadline=None, max_examples=60)
@given(
    points=st.lists(st.lists(corner, min_size=3, max_size=7), min_size=1, max_size=3),
    meridian=st.sampled_from([6.0, -72.0, 180.0]),
    latitude=st.sampled_from([-55.0, -0.002, 47.3, 70.0]),
)
def test_a_pixel_is_its_zones_and_one_tiles_when_its_centre_lies_in_strip_and_area(
    tmp_path_factory: pytest.TempPathFactory, points: list, meridian: float, latitude: float
) -> None:
    shapes = [shapely.MultiPoint([(meridian + x, latitude + y) for x, y in ps]).convex_hull for ps in points]
    shapes = [p for p in shapes if p.geom_type == "Polygon" and p.area > 1e-7]
    if not shapes:
        return
    whole = shapely.union_all(shapes)
    outline = MultiPolygon([*far(meridian, latitude), *shapely.get_parts(whole)])
    areas = [
        Area(grid := Grid(part.strip.crs), tuple(shapely.get_parts(grid.project(part.wide))), part.outline, part.strip)
        for part in parts_of(outline, "area")
    ]
    assert [area.strip.west for area in areas][1:] == [-3]
    tiles, _ = plan_tiles(areas, LAYOUT)
    assert len({tile.name for tile in tiles}) == len(tiles)
    ground = 0.0
    for area, side in zip(areas, (-1, 1), strict=True):
        around = area.grid.around(area.grid.project(whole).bounds).pad(8)
        longitude, where = degrees(around)
        longitude = np.where(longitude < meridian - 180, longitude + 360, longitude)
        near = shapely.distance(whole.boundary, shapely.points(longitude, where)) < 1e-6  # a decimetre: either is right
        expected = shapely.contains_xy(whole, longitude, where) & ((longitude - meridian) * side >= 0)
        mask = area.mask(around)
        assert np.array_equal(mask[~near], expected[~near])
        assert (mask & ((longitude - meridian) * side < 0)).sum() == 0
        owners = np.zeros(around.shape, int)
        for tile in tiles:
            here = area.grid.box(tile.column, tile.row, tile.width, tile.height).cut(around)
            if tile.crs == area.grid.crs and min(here.shape) > 0:
                owners[here.slices_in(around)] += 1
                assert np.array_equal(area.mask(here), mask[here.slices_in(around)])  # whatever box is asked for
        assert (owners[mask] == 1).all()
        assert owners.max() <= 1
        ground += mask.sum() * 100
    metres, edge = Geod(ellps="WGS84").geometry_area_perimeter(shapely.orient_polygons(whole))
    assert ground == pytest.approx(metres, abs=metres * 0.003 + (edge + 2 * 450) * 10)


def test_an_area_that_reaches_less_than_a_degree_out_of_its_zone_stays_in_it(tmp_path: Path) -> None:
    (one,) = load(save(tmp_path / "a.geojson", box(3, 45, 6.9, 45.01)))
    assert (one.grid.crs, one.strip) == ("EPSG:32631", None)
    first, second = load(save(tmp_path / "b.geojson", box(3, 45, 7.1, 45.01)))
    assert [a.grid.crs for a in (first, second)] == ["EPSG:32631", "EPSG:32632"]
    assert (first.outline.bounds[2], second.outline.bounds[0]) == pytest.approx((6, 6), abs=1e-5)
    # the outermost zones take over a little of their neighbours, as a zone alone does
    assert [a.grid.crs for a in load(save(tmp_path / "c.geojson", box(-0.5, 45, 12.5, 45.01)))] == [
        "EPSG:32631",
        "EPSG:32632",
    ]


def test_edges_are_straight_in_degrees_where_there_are_several_zones(tmp_path: Path) -> None:
    areas = load(save(tmp_path / "a.geojson", box(1, 60, 11, 60.01)), resolution=1000)
    for area in areas:  # a parallel bends by kilometres on a grid
        longitude, latitude = degrees(area.bounds.pad(2))
        mask = area.mask(area.bounds.pad(2))
        inside = (latitude > 60) & (latitude < 60.01) & (longitude > 1) & (longitude < 11)
        inside &= (longitude < 6) == (area.grid.crs == "EPSG:32631")
        assert np.array_equal(mask, inside)
        assert mask.sum() > 100


@pytest.mark.parametrize("cut", [False, True])
def test_an_area_across_the_antimeridian_lies_in_zones_60_and_1(tmp_path: Path, cut: bool) -> None:
    whole = Polygon([(178.5, -17), (-178.5, -17), (-178.2, -17.02), (-178.5, -17.05), (178.5, -17.05)])
    halves = [box(178.5, -17.05, 180, -17), Polygon([(-180, -17), (-178.5, -17), (-178.5, -17.05), (-180, -17.05)])]
    path = save(tmp_path / "a.geojson", *(halves if cut else [whole]))
    first, second = load(path)
    assert [first.grid.crs, second.grid.crs] == ["EPSG:32760", "EPSG:32701"]
    assert first.outline.bounds[2] == pytest.approx(180, abs=1e-5)
    assert (second.outline.bounds[0], second.outline.bounds[2]) == pytest.approx((-180, -178.2 - 0.3 * cut))
    degrees_wide = shapely.area(read_area(path, "a.geojson")) / 0.05
    assert degrees_wide == pytest.approx(3.0 if cut else 3.15, rel=1e-6)
    # a narrow one stays in one zone
    (one,) = load(save(tmp_path / "b.geojson", Polygon([(179.9, 5), (-179.8, 5), (-179.8, 5.02), (179.9, 5.02)])))
    assert one.grid.crs == "EPSG:32601"
    assert one.bounds.width == pytest.approx(0.3 * 111_320 * np.cos(np.radians(5)) / 10, rel=0.01)


def test_a_circle_that_jumps_at_the_antimeridian_is_no_broken_geometry(tmp_path: Path) -> None:
    circle = shapely.transform(Point(179.99, 10).buffer(0.05), lambda p: np.where(p[:, :1] > 180, p - [360, 0], p))
    assert not circle.is_valid
    (area,) = load(save(tmp_path / "a.geojson", circle))
    assert area.mask(area.bounds).sum() * 1e-4 == pytest.approx(np.pi * 5.57**2 * np.cos(np.radians(10)), rel=0.01)


def test_each_zone_has_the_hemisphere_of_its_middle(tmp_path: Path) -> None:
    areas = load(save(tmp_path / "a.geojson", box(10, -0.3, 12, 0.1), box(12.1, -0.1, 15, 0.3)))
    assert [area.grid.crs for area in areas] == ["EPSG:32732", "EPSG:32633"]


def test_poles_are_for_a_crs_of_choice(tmp_path: Path) -> None:
    path = save(tmp_path / "a.geojson", box(-180, 86, 180, 90))
    with pytest.raises(MappingError, match=r"the area reaches from latitude 86\.00 to 90\.00.*imagery\.crs"):
        load(path)
    (area,) = load(path, "EPSG:3413", 10_000)
    pixels = area.mask(area.bounds).sum()
    assert pixels * 1e8 == pytest.approx(2 * np.pi * 6371e3**2 * (1 - np.sin(np.radians(86))), rel=0.1)
    (south,) = load(save(tmp_path / "b.geojson", box(-180, -90, 180, -81)), "EPSG:3031", 50_000)
    middle = south.bounds.column + south.bounds.width // 2, south.bounds.row + south.bounds.height // 2
    assert south.mask(south.grid.box(*middle, 1, 1)).all()  # the pole itself


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), hole=st.booleans())
def test_a_large_polygon_in_pieces_is_the_same_area(seed: int, hole: bool) -> None:
    random = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, 3000, endpoint=False)
    radius = 2000 + 300 * np.sin(7 * angle) + random.uniform(0, 60, 3000)
    ring = np.column_stack([500_000 + radius * np.cos(angle), 5_000_000 + radius * np.sin(angle)])
    polygon = Polygon(ring, [ring * 0.5 + [250_000, 2_500_000]] if hole else [])
    from olmoearth_core.inference.cutting import FEW, in_pieces

    pieces = in_pieces([polygon], 10.0)
    assert len(pieces) > 4
    assert max(shapely.get_num_coordinates(pieces)) <= FEW or min(p.bounds[2] - p.bounds[0] for p in pieces) < 640
    assert sum(p.area for p in pieces) == pytest.approx(polygon.area, rel=1e-12)
    grid = Grid("EPSG:32631")
    whole, cut = (Area(grid, parts, box(0, 0, 1, 1)) for parts in ((polygon,), pieces))
    assert whole.bounds == cut.bounds
    assert np.array_equal(whole.mask(whole.bounds), cut.mask(cut.bounds))
    boxes = np.stack([*random.integers((whole.bounds.column, whole.bounds.row), (50_250, -499_750), (300, 2)).T, *random.integers(1, 40, (2, 300))], 1)  # fmt: skip  # noqa: E501
    assert np.array_equal(whole.reaches(boxes), cut.reaches(boxes))
    assert not (cut.fills(boxes) & ~whole.fills(boxes)).any()


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000))
def test_pieces_of_an_outline_that_lies_on_the_cuts_are_the_same_area(seed: int) -> None:
    """Edges and corners on edges of pixels, where it is cut; islands, bays and holes that touch in points."""
    random = np.random.default_rng(seed)
    column, row = random.integers(0, 200, (2, 2500))
    width, height = random.integers(1, 9, (2, 2500))
    joined = shapely.union_all(shapely.box(column * 10, row * 10, (column + width) * 10, (row + height) * 10))
    polygon = max(shapely.get_parts(joined), key=shapely.get_num_coordinates)
    from olmoearth_core.inference.cutting import MOST, in_pieces

    assert shapely.get_num_coordinates(polygon) > MOST
    pieces = in_pieces([polygon], 10.0)
    assert sum(p.area for p in pieces) == polygon.area
    grid = Grid("EPSG:32631")
    whole, cut = (Area(grid, parts, box(0, 0, 1, 1)) for parts in ((polygon,), pieces))
    assert np.array_equal(whole.mask(whole.bounds), cut.mask(whole.bounds))


@pytest.mark.parametrize("side", [100, pytest.param(1000, marks=pytest.mark.verify)])
@pytest.mark.parametrize("kind", ["fields", "zones"])
def test_very_many_polygons_are_planned_soon(tmp_path: Path, kind: str, side: int, record_property: Any) -> None:
    i, j = (k.ravel() for k in np.meshgrid(np.arange(side), np.arange(side)))
    x, y = 6 + (i - side / 2) * 0.0015, 45 + j * 0.0011
    squares = [*shapely.box(x, y, x + 0.0009, y + 0.0007), *far(6, 45)]
    if kind == "zones":  # specks all over five zones
        x, y = np.random.default_rng(1).uniform([[0.5], [40]], [[29.5], [45]], (2, side**2))
        squares = list(shapely.box(x, y, x + 0.001, y + 0.001))
    path = tmp_path / "fields.gpkg"
    gpd.GeoSeries(squares, crs="EPSG:4326").to_file(path)
    del squares
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(path)], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    for name in ("seconds", "megabytes", "tiles", "windows"):
        record_property(name, found[name])
    assert found["areas"] == (2 if kind == "fields" else 5)
    assert found["parts"] >= side**2 * (1 if kind == "fields" else 0.98)  # specks that overlap are one
    assert found["windows"] <= found["computed"]
    assert found["again"] == found["of_one"]
    assert found["seconds"] < side**2 / 10_000 * 0.6 + 5  # a million in about a minute
    assert found["megabytes"] < 4000
    if kind == "zones":
        return
    start = time.perf_counter()
    around = search_area(grown(read_area(path, path.name), 0.01))
    record_property("search_seconds", time.perf_counter() - start)
    assert shapely.covers(around, shapely.box(x.min(), y.min(), x.max(), y.max()))
