from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasters import CRS
from smallmap import full_disk

from olmoearth_core.errors import StoreError
from olmoearth_core.grid import Grid, PixelBox
from olmoearth_core.inference.plan import PlannedModel
from olmoearth_core.inference.product import write_tile
from olmoearth_core.inference.tile import MappedTile
from olmoearth_core.postprocess.mosaic import Band, virtual_raster, write_mosaic, write_style

GRID = Grid(CRS, 10.0)
COLOURS = ["#2c7fb8", "#31a354", "#d95f0e"]
CLASS = [Band("class", 1, colours=COLOURS)]
PROBABILITIES = [Band(f"probability of {name}", value + 2, 0.004) for value, name in enumerate("abc")]
WHOLE = GRID.box(50003, -469002, 1100, 900)


def pixels() -> np.ndarray:
    """(4, 900, 1100): patches of classes and their probabilities, a nodata hole, and a corner without any tile."""
    random = np.random.default_rng(0)
    classes = np.kron(random.integers(0, 3, (45, 55)), np.ones((20, 20))).astype(np.uint8)
    bands = np.stack([classes, *(random.integers(0, 250, (3, *classes.shape), dtype=np.uint8))])
    bands[:, 300:420, 500:700] = 255
    bands[:, 600:, 768:] = 255
    return bands


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, PixelBox]:
    folder = tmp_path_factory.mktemp("tiles")
    found = {}
    for row in range(0, 900, 300):
        for column in range(0, 1100, 384):
            if (row, column) == (600, 768):
                continue
            box = GRID.box(WHOLE.column + column, WHOLE.row + row, 384, 300).cut(WHOLE)
            part = pixels()[:, row : row + box.height, column : column + box.width]
            name = f"{column}_{row}"
            mapped = MappedTile(box, part[0], part[1:], int((part[0] < 255).sum()), 1)
            write_tile(folder, name, mapped, PlannedModel(weights_sha256="0" * 64, classes=list("abc")), "0" * 64)
            found[folder / f"{name}.tif"] = box
    return found


@pytest.fixture(scope="module")
def mosaic(tiles: dict[Path, PixelBox], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mosaic")
    write_mosaic(folder / "map.tif", tiles, CLASS, tags={"OLMOEARTH_MAP_ID": "a <b> & c"}, scratch=folder)
    write_mosaic(folder / "probabilities.tif", tiles, PROBABILITIES, tags={}, scratch=folder)
    return folder


def validate(path: Path) -> tuple[bool, list[str], list[str]]:
    from rio_cogeo import cog_validate

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the checker's own, of other libraries' futures
        return cog_validate(path, strict=True, quiet=True)


@pytest.mark.parametrize("name", ["map.tif", "probabilities.tif"])
def test_it_is_a_valid_cog_with_overviews(mosaic: Path, name: str) -> None:
    assert validate(mosaic / name) == (True, [], [])
    with rasterio.open(mosaic / name) as source:
        assert source.overviews(1) == [2, 4]
        assert set(source.block_shapes) == {(512, 512)}
        assert source.compression.value == "DEFLATE"


def test_it_holds_the_tiles_pixel_by_pixel_and_nodata_between(mosaic: Path) -> None:
    with rasterio.open(mosaic / "map.tif") as classes, rasterio.open(mosaic / "probabilities.tif") as probabilities:
        assert np.array_equal(classes.read(1), pixels()[0])
        assert np.array_equal(probabilities.read(), pixels()[1:])
        for source in (classes, probabilities):
            assert source.nodata == 255
            assert source.crs.to_epsg() == 32631
            assert tuple(source.transform) == tuple(WHOLE.transform)
        assert probabilities.scales == (0.004,) * 3
        assert probabilities.descriptions == tuple(band.name for band in PROBABILITIES)


def test_classes_have_their_colours_and_the_file_its_tags(mosaic: Path) -> None:
    with rasterio.open(mosaic / "map.tif") as source:
        table = source.colormap(1)
        assert [table[value][:3] for value in range(3)] == [(44, 127, 184), (49, 163, 84), (217, 95, 14)]
        assert source.tags()["OLMOEARTH_MAP_ID"] == "a <b> & c"
        assert source.descriptions == ("class",)


def test_overviews_hold_classes_and_never_a_mixture(mosaic: Path) -> None:
    with rasterio.open(mosaic / "map.tif", overview_level=1) as overview:
        small = overview.read(1)
    assert set(np.unique(small)) == {0, 1, 2, 255}
    middles = pixels()[0][10::20, 10::20]  # patches are 20 px wide: five pixels of the overview
    assert np.array_equal(small[2::5, 2::5][:45, :55], middles)


def test_equal_tiles_give_equal_bytes(mosaic: Path, tiles: dict[Path, PixelBox], tmp_path: Path) -> None:
    for name, bands, tags in (
        ("map.tif", CLASS, {"OLMOEARTH_MAP_ID": "a <b> & c"}),
        ("probabilities.tif", PROBABILITIES, {}),
    ):
        write_mosaic(tmp_path / name, dict(reversed(tiles.items())), bands, tags=tags, scratch=tmp_path)
        assert (tmp_path / name).read_bytes() == (mosaic / name).read_bytes()


def test_the_virtual_raster_is_laid_out_on_whole_pixels(tiles: dict[Path, PixelBox]) -> None:
    text = virtual_raster(tiles, CLASS, {})
    assert f'rasterXSize="{WHOLE.width}" rasterYSize="{WHOLE.height}"' in text
    assert text.count("<SimpleSource>") == len(tiles)


def test_the_style_names_each_class_with_its_colour(tmp_path: Path) -> None:
    from xml.etree import ElementTree

    write_style(tmp_path / "map.qml", ["water", 'bare & "built"', "forest"], COLOURS)
    entries = ElementTree.parse(tmp_path / "map.qml").findall("./pipe/rasterrenderer/colorPalette/paletteEntry")
    assert [(e.get("value"), e.get("label"), e.get("color")) for e in entries] == [
        ("0", "water", COLOURS[0]),
        ("1", 'bare & "built"', COLOURS[1]),
        ("2", "forest", COLOURS[2]),
    ]


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.999])
def test_a_full_disk_is_one_clear_error_and_leaves_no_half_map(
    mosaic: Path, tiles: dict[Path, PixelBox], tmp_path: Path, share: float
) -> None:
    (tmp_path / "scratch").mkdir()
    limit = int(share * (mosaic / "probabilities.tif").stat().st_size)
    with full_disk(limit), pytest.raises(StoreError, match=r"probabilities\.tif: cannot be written"):
        write_mosaic(tmp_path / "probabilities.tif", tiles, PROBABILITIES, tags={}, scratch=tmp_path / "scratch")
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]


def test_a_damaged_tile_is_one_clear_error(tiles: dict[Path, PixelBox], tmp_path: Path) -> None:
    moved = {}
    for path, box in tiles.items():
        (tmp_path / path.name).write_bytes(path.read_bytes())
        moved[tmp_path / path.name] = box
    victim = next(iter(moved))
    victim.write_bytes(victim.read_bytes()[:3000])
    with pytest.raises(StoreError, match=r"map\.tif: cannot be written"):
        write_mosaic(tmp_path / "map.tif", moved, CLASS, tags={}, scratch=tmp_path)
    assert not (tmp_path / "map.tif").exists()
