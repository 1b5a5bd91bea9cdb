"""Folders of GeoTIFFs: which files make a scene, what their bands are called, when they were taken."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from foreign import DAY, LEFT, values, write_tiff
from numpy.testing import assert_array_equal
from rasters import Layer, write_cog

from olmoearth_core.errors import SourceError
from olmoearth_core.importing.source import Found, Options
from olmoearth_core.importing.tiffs import find_tiffs, read_scenes


def read(folder: Path, options: Options | None = None) -> Found:
    options = options or Options()
    return read_scenes(find_tiffs(folder, options.ignore), folder, options)


def test_one_file_a_band_in_a_folder_a_scene(tmp_path: Path) -> None:
    blue = write_tiff(tmp_path / "2024-05-01" / "B02.tif", values(1))
    write_tiff(tmp_path / "2024-05-01" / "B11_20m.tif", values(2, 16, 16), resolution=20)
    write_tiff(tmp_path / "2024-05-11" / "blue.tif")
    first, second = read(tmp_path).scenes
    assert (first.id, first.moment, list(first.layers)) == ("2024-05-01", DAY, ["B02", "B11"])
    assert_array_equal(first.layers["B02"].read(), blue)
    assert first.layers["B02"].grid.transform == (10.0, 0.0, LEFT, 0.0, -10.0, 4_690_020.0)
    assert first.layers["B11"].grid.resolution == 20
    assert (second.moment.day, list(second.layers)) == (11, ["B02"])


def test_the_product_of_the_space_agency(tmp_path: Path) -> None:
    granule = tmp_path / "S2A.SAFE" / "IMG_DATA"
    for folder, names in {"R10m": ("B02_10m", "B08_10m", "TCI_10m"), "R20m": ("B11_20m", "SCL_20m")}.items():
        for name in names:
            write_tiff(granule / folder / f"T31TDG_20240501T104021_{name}.tif")
    (scene,) = read(tmp_path, Options(ignore=frozenset({"tci"}))).scenes
    assert list(scene.layers) == ["B02", "B08", "B11", "SCL"]
    assert scene.moment == datetime(2024, 5, 1, 10, 40, 21, tzinfo=UTC)
    with pytest.raises(SourceError, match=r"TCI_10m.tif: tells no band"):
        read(tmp_path)


def test_all_bands_in_one_file(tmp_path: Path) -> None:
    pixels = write_tiff(tmp_path / "place_20240501.tif", values(0, 3, 8, 8), names=["blue", "B8A", "ndvi"])
    (scene,) = read(tmp_path, Options(ignore=frozenset({"ndvi"}))).scenes
    assert list(scene.layers) == ["B02", "B8A"]
    assert_array_equal(scene.layers["B8A"].read(), pixels[1])
    assert scene.layers["B02"].file is None
    with pytest.raises(SourceError, match="'ndvi' is no band of Sentinel-2; allowed are B02"):
        read(tmp_path)
    (named,) = read(tmp_path, Options(bands=("B02", "-", "red"))).scenes
    assert list(named.layers) == ["B02", "B04"]


def test_where_a_date_comes_from(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a" / "B02.tif", tags={"ACQUISITIONDATETIME": "2024-05-01T10:40:21Z"})
    write_tiff(tmp_path / "b" / "B02.tif", left=0)
    with pytest.raises(SourceError, match=r"b/B02.tif: tells no date .* --date"):
        read(tmp_path)
    assert [scene.moment.year for scene in read(tmp_path, Options(date=datetime(2020, 1, 1, tzinfo=UTC))).scenes] == [
        2020, 2024,
    ]  # fmt: skip
    (tmp_path / "dates.csv").write_text("file,date\nb/B02.tif,2021-06-01\n")
    assert [scene.moment.year for scene in read(tmp_path, Options(dates=tmp_path / "dates.csv")).scenes] == [2021, 2024]


def test_what_the_file_says_of_its_values(tmp_path: Path) -> None:
    write_tiff(tmp_path / "20240501_B02.tif", nodata=7)
    (scene,) = read(tmp_path).scenes
    assert (scene.layers["B02"].encoding.nodata, scene.layers["B02"].encoding.scale) == (7, None)
    (scene,) = read(tmp_path, Options(nodata=0, scale=0.0002)).scenes
    assert (scene.layers["B02"].encoding.nodata, scene.layers["B02"].encoding.scale) == (0, 0.0002)


def no_crs(folder: Path) -> None:
    write_tiff(folder / "20240501_B02.tif", crs=None)


def no_transform(folder: Path) -> None:
    write_tiff(folder / "20240501_B02.tif", place=False)


def mixed_bands(folder: Path) -> None:
    write_tiff(folder / "a_20240501.tif", values(0, 2, 8, 8))
    write_tiff(folder / "b_20240501.tif", values(0, 3, 8, 8))


def unnamed_bands(folder: Path) -> None:
    write_tiff(folder / "a_20240501.tif", values(0, 2, 8, 8))


def doubled_band(folder: Path) -> None:
    write_tiff(folder / "20240501" / "B02.tif")
    write_tiff(folder / "20240501" / "blue.tif")


def doubled_scene(folder: Path) -> None:
    write_tiff(folder / "a" / "x_20240501_B02.tif")
    write_tiff(folder / "b" / "y_20240501_B02.tif")


def two_dates(folder: Path) -> None:
    for folder_name, day in (("R10m", 1), ("R20m", 2)):
        write_tiff(folder / "s" / folder_name / f"B0{day}.tif", tags={"DATE": f"2024-05-0{day}"})


def no_raster(folder: Path) -> None:
    (folder / "20240501_B02.tif").write_bytes(b"no raster at all")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (no_crs, "states no CRS. Give the one it is in with --crs"),
        (no_transform, "has no transform"),
        (mixed_bands, "different numbers of bands: a_20240501.tif has 2, b_20240501.tif has 3"),
        (unnamed_bands, "has 2 bands without names. Give them in order"),
        (doubled_band, "a second B02 of one scene"),
        (doubled_scene, "show the same place at the same time"),
        (two_dates, "tells the date 20240502, other bands of its scene 20240501"),
        (no_raster, "is no GeoTIFF that can be read"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, make: object, words: str) -> None:
    make(tmp_path)  # type: ignore[operator]
    with pytest.raises(SourceError, match=words):
        read(tmp_path)


def test_the_number_of_bands_given(tmp_path: Path) -> None:
    unnamed_bands(tmp_path)
    with pytest.raises(SourceError, match="has 2 bands, --bands names 3"):
        read(tmp_path, Options(bands=("B02", "B03", "B04")))
    with pytest.raises(SourceError, match="has the band B02 twice"):
        read(tmp_path, Options(bands=("B02", "blue")))
    with pytest.raises(SourceError, match="no band is left"):
        read(tmp_path, Options(bands=("-", "-")))


def test_a_crs_by_word_stands_in_for_a_missing_one(tmp_path: Path) -> None:
    no_crs(tmp_path)
    write_tiff(tmp_path / "20240511_B02.tif", crs="EPSG:3035")
    scenes = read(tmp_path, Options(crs="EPSG:32632")).scenes
    assert [scene.finest.crs for scene in scenes] == ["EPSG:32632", "EPSG:3035"]
    with pytest.raises(SourceError, match="CRS cannot be understood"):
        read(tmp_path, Options(crs="EPSG:nothing"))


def test_a_damaged_file_is_told_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "20240501_B02.tif"
    write_cog(path, Layer(values(0, 200, 200)))
    content = path.read_bytes()
    path.write_bytes(content[:30_000] + bytes(20_000) + content[50_000:])
    (scene,) = read(tmp_path).scenes
    with pytest.raises(SourceError, match="cannot be read to the end"):
        scene.layers["B02"].read()
