"""Label rasters in any CRS and resolution: the pixel that holds the point, nothing else."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer
from rasters import CRS, LEFT, TOP
from shore import SIZE, square, write_labels, write_shore

from olmoearth_core.errors import LabelError
from olmoearth_core.labels.labels import Labels, read_labels
from olmoearth_core.labels.targets import make_target
from olmoearth_core.labels.windows import IGNORE, windows_of
from olmoearth_core.progress import Silent
from olmoearth_core.project import Project
from olmoearth_core.validate import validate

CODES = {"land": [1, 2], "water": "10-20"}


def from_origin(left: float, top: float, width: float, height: float) -> Affine:
    return Affine(width, 0, left, 0, -height, top)


def write_raster(
    path: Path, pixels: np.ndarray, transform: Affine, *, crs: str | None = CRS, nodata: float | None = None
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = pixels.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=height, width=width, dtype=pixels.dtype, crs=crs,
        transform=transform, nodata=nodata,
    ) as file:  # fmt: skip
        file.write(pixels, 1)


def project_with(folder: Path, pixels: np.ndarray, transform: Affine, *, crs: str = CRS, **labels: Any) -> Project:
    write_raster(folder / "labels/codes.tif", pixels, transform, crs=crs, nodata=255 if pixels.dtype == "u1" else None)
    section = {"files": ["labels/codes.tif"], "classes": CODES, "date": "2024-05-01", **labels}
    return write_shore(folder, {"labels": section}, scenes=[])


def codes(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array([1, 2, 12, 20, 255], np.uint8), shape)


def truth(labels: Labels, path: Path) -> dict[str, np.ndarray]:
    """Target of each window, pixel by pixel: transform the centre, take the pixel that holds it."""
    with rasterio.open(path) as file:
        pixels, to_pixel, crs = file.read(1), ~file.transform, file.crs.to_wkt()
    mean = {1: 0, 2: 0, 12: 1, 20: 1}
    transformer = Transformer.from_crs(labels.grid.crs, crs, always_xy=True)
    targets = {}
    for cell in np.unique(labels.rasters[0].cells[:, :2], axis=0).tolist():
        box = labels.grid.box(cell[1] * 16, cell[0] * 16, 16, 16)
        target = np.full(box.shape, IGNORE)
        for i, y in enumerate(box.centres[1]):
            for j, x in enumerate(box.centres[0]):
                u, v = transformer.transform(x, y)
                column = int(np.floor(to_pixel.a * u + to_pixel.b * v + to_pixel.c))
                row = int(np.floor(to_pixel.d * u + to_pixel.e * v + to_pixel.f))
                if 0 <= row < pixels.shape[0] and 0 <= column < pixels.shape[1]:
                    target[i, j] = mean.get(int(pixels[row, column]), IGNORE)
        targets[f"20240501_{box.row}_{box.column}"] = target
    return targets


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (CRS, from_origin(LEFT, TOP, 10, 10)),
        (CRS, from_origin(LEFT + 3, TOP - 7, 23, 17)),
        (CRS, Affine(8, 3, LEFT, 2, -9, TOP)),
        ("EPSG:3035", from_origin(3661960, 2095000, 20, 20)),
        ("EPSG:4326", from_origin(3.001, 42.360, 0.0001, 0.0001)),
    ],
)
def test_each_pixel_is_that_of_the_raster_under_its_centre(tmp_path: Path, crs: str, transform: Affine) -> None:
    project = project_with(tmp_path, codes((40, 50)), transform, crs=crs)
    labels = read_labels(project)
    windows = windows_of(project, labels)
    expected = truth(labels, tmp_path / "labels/codes.tif")
    assert {w.name for w in windows} == expected.keys()
    for window in windows:
        assert (make_target(labels, window).classes == expected[window.name]).all()
        assert (expected[window.name] != IGNORE).any()
    amounts = np.bincount(labels.rasters[0].cells[:, 2], weights=labels.rasters[0].amounts)
    assert amounts.tolist() == [sum((t == k).sum() for t in expected.values()) for k in (0, 1)]


def test_windows_only_where_there_is_data(tmp_path: Path) -> None:
    pixels = np.full((96, 96), 255, np.uint8)
    pixels[20, 70] = 1
    project = project_with(tmp_path, pixels, from_origin(LEFT, TOP, 10, 10))
    labels = read_labels(project)
    (window,) = windows_of(project, labels)
    x, y = LEFT + 705, TOP - 205
    left, bottom, right, top = window.box.bounds
    assert left < x < right
    assert bottom < y < top
    assert labels.bounds.tolist() == [list(window.box.bounds)]


def test_the_area_cuts_a_raster(tmp_path: Path) -> None:
    pixels = np.ones((96, 96), np.uint8)
    project = project_with(tmp_path, pixels, from_origin(LEFT, TOP, 10, 10), area="half.gpkg")
    write_labels(tmp_path / "half.gpkg", [(square(0, 0, 480, SIZE), "half", None)], CRS)
    labels = read_labels(project)
    count = sum((make_target(labels, window).classes == 0).sum() for window in windows_of(project, labels))
    assert count == labels.rasters[0].amounts.sum() == 48 * 96
    write_labels(tmp_path / "half.gpkg", [(square(5000, 0, 6000, SIZE), "far", None)], CRS)
    with pytest.raises(LabelError, match=r"no label lies in labels\.area"):
        read_labels(project)


def test_rasters_and_outlines_that_contradict_each_other(tmp_path: Path) -> None:
    pixels = np.full((96, 96), 1, np.uint8)
    project = project_with(
        tmp_path, pixels, from_origin(LEFT, TOP, 10, 10), files=["labels/codes.tif", "labels/shore.geojson"]
    )
    labels = read_labels(project)
    targets = [make_target(labels, window) for window in windows_of(project, labels)]
    assert sum(target.conflicts for target in targets) == 48 * 96  # the east is water in the outlines
    assert sum((target.classes == 0).sum() for target in targets) == 48 * 96
    assert not any((target.classes == 1).any() for target in targets)


def test_values_that_mean_no_class(tmp_path: Path) -> None:
    pixels = np.full((96, 96), 1, np.uint8)
    pixels[3, 4:6] = 77, 78
    project = project_with(tmp_path, pixels, from_origin(LEFT, TOP, 10, 10))
    with pytest.raises(LabelError, match=r"codes\.tif: holds the values 77, 78, which mean no class; allowed are land"):
        read_labels(project)
    ignored = project_with(tmp_path, pixels, from_origin(LEFT, TOP, 10, 10), unmapped="ignore")
    assert read_labels(ignored).rasters[0].amounts.sum() == 96 * 96 - 2


def test_numbers_that_are_none_are_not_labelled(tmp_path: Path) -> None:
    pixels = np.full((96, 96), 1.0, np.float32)
    pixels[:, 50:] = np.nan
    project = project_with(tmp_path, pixels, from_origin(LEFT, TOP, 10, 10))
    assert read_labels(project).rasters[0].amounts.sum() == 50 * 96


def test_the_date_of_a_raster(tmp_path: Path) -> None:
    pixels, place = np.ones((96, 96), np.uint8), from_origin(LEFT, TOP, 10, 10)
    with pytest.raises(LabelError, match=r"a raster has no date of its own\. Set labels\.date, or labels\.dates"):
        read_labels(project_with(tmp_path, pixels, place, date=None))
    project = project_with(tmp_path, pixels, place, dates={"labels/codes.tif": "2018-07-01"})
    assert read_labels(project).dates == [date(2018, 7, 1)]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"crs": None}, "does not say where it lies \\(no CRS\\)"),
        ({"transform": Affine.identity()}, "no transform"),
        ({"pixels": np.ones((4, 4), np.complex64)}, "one band of numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_rasters_that_cannot_be_used(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    place = from_origin(LEFT, TOP, 10, 10)
    project = project_with(tmp_path, np.ones((4, 4), np.uint8), place)
    given = {"pixels": np.ones((4, 4), np.uint8), "transform": place, **change}
    write_raster(tmp_path / "labels/codes.tif", **given)
    with pytest.raises(LabelError, match=word):
        read_labels(project)


def test_what_a_raster_cannot_do(tmp_path: Path) -> None:
    place = from_origin(LEFT, TOP, 10, 10)
    with pytest.raises(LabelError, match="a raster has no middles of labels"):
        read_labels(project_with(tmp_path, np.ones((4, 4), np.uint8), place, windows="centred"))


def test_a_raster_outside_the_imagery_is_told(tmp_path: Path) -> None:
    from shore import clear_scene

    project = project_with(
        tmp_path,
        codes((96, 96)),
        from_origin(LEFT + 3000, TOP, 10, 10),
        files=["labels/codes.tif", "labels/shore.geojson"],
    )
    write_shore(tmp_path, {"labels": project.config.labels.model_dump(mode="json", exclude={"sampling"})})
    assert clear_scene("A", "2024-05-01").id == "A"
    write_raster(tmp_path / "labels/codes.tif", codes((96, 96)), from_origin(LEFT + 3000, TOP, 10, 10), nodata=255)
    files = ["labels/codes.tif", "labels/shore.geojson"]
    project = write_shore(tmp_path, {"labels": {"files": files, "classes": CODES, "date": "2024-05-01"}})
    found = [finding for finding in validate(project, Silent()) if finding.where == "labels/codes.tif"]
    assert [finding.severity for finding in found] == ["error"]
    assert "windows with pixels of this raster lie outside the imagery" in found[0].message


@pytest.mark.parametrize("name", ["tree_cover_density_2018.tif", "tree_cover_density_2018_custom_crs.tif"])
def test_tree_cover_of_romania(real_data: Path, tmp_path: Path, name: str) -> None:
    path = str(real_data / "romania_forest" / name)
    section = {"files": [path], "classes": {"land": "0-29", "water": "30-100"}, "date": "2018-07-01"}
    project = write_shore(tmp_path, {"labels": section}, scenes=[])
    labels = read_labels(project)
    with rasterio.open(path) as file:
        pixels = file.read(1)
    assert labels.grid.crs == "EPSG:32634"
    windows = windows_of(project, labels)
    targets = np.array([make_target(labels, window).classes for window in windows])
    assert all((target != IGNORE).any() for target in targets)
    assert (targets != IGNORE).sum() == pytest.approx(100 * 100 * (pixels != 255).mean(), rel=0.01)
    dense = ((pixels >= 30) & (pixels <= 100)).sum() / (pixels <= 100).sum()
    assert (targets == 1).sum() / (targets != IGNORE).sum() == pytest.approx(dense, abs=0.01)
    assert len(windows) <= 8 * 8 + 2 * 8 + 2 * 8  # a square kilometre, turned a little
