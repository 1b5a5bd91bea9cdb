"""A training set as files for QGIS: the same pixels in the same place."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from shore import DATE, clear_scene, halves, run_to_dataset, write_shore

from olmoearth_core.dataset.dataset import Dataset, open_dataset
from olmoearth_core.dataset.gis import telling_windows, write_for_gis
from olmoearth_core.errors import DatasetError
from olmoearth_core.labels.windows import IGNORE
from olmoearth_core.progress import Silent

COLORS = {"land": "#808080", "water": "#2c7fb8"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    scenes = [clear_scene("A", DATE, seed=1, cloudy=slice(20, 40))]
    project = write_shore(tmp_path_factory.mktemp("shore"), scenes=scenes, labels=halves(DATE))
    return open_dataset(run_to_dataset(project).folder)


def test_outlines_and_rasters_lie_where_the_windows_are(dataset: Dataset, tmp_path: Path) -> None:
    name = str(dataset.windows["name"].iloc[3])
    written = write_for_gis(dataset, tmp_path, [name], COLORS, Silent())
    outlines = gpd.read_file(tmp_path / "windows.gpkg")
    assert len(outlines) == len(dataset)
    assert outlines.crs == dataset.windows.crs
    (sample,) = dataset.read([3])
    with rasterio.open(tmp_path / name / "target.tif") as target:
        assert tuple(target.bounds) == pytest.approx(outlines.geometry[3].bounds)
        assert np.array_equal(target.read(1), sample.target)
        assert target.nodata == IGNORE
        assert target.colormap(1)[dataset.classes.index("water")] == (0x2C, 0x7F, 0xB8, 255)
    rasters = sorted((tmp_path / name).glob("sentinel2_l2a_*.tif"))
    assert len(rasters) == dataset.timesteps
    style = tmp_path / name / "target.qml"
    assert {*rasters, tmp_path / name / "target.tif", style, tmp_path / "windows.gpkg"} == set(written)
    for t, path in enumerate(rasters):
        with rasterio.open(path) as raster:
            assert raster.descriptions == dataset.bands["sentinel2_l2a"]
            seen_as = dict(zip(raster.descriptions, raster.colorinterp, strict=True))
            assert (seen_as["B04"], seen_as["B03"], seen_as["B02"]) == (
                ColorInterp.red,
                ColorInterp.green,
                ColorInterp.blue,
            )
            assert set(raster.colorinterp[3:]) == {ColorInterp.undefined}
            assert np.array_equal(raster.read(), sample.inputs["sentinel2_l2a"][t])
            assert np.array_equal(raster.dataset_mask() > 0, sample.valid["sentinel2_l2a"][t])


def test_classes_have_their_names_and_colours_in_qgis(dataset: Dataset, tmp_path: Path) -> None:
    (name,) = telling_windows(dataset, 1)
    write_for_gis(dataset, tmp_path, [name], COLORS, Silent())
    entries = ElementTree.parse(tmp_path / name / "target.qml").iter("paletteEntry")
    told = {entry.get("label"): (entry.get("value"), entry.get("color")) for entry in entries}
    assert told == {name: (str(dataset.classes.index(name)), color) for name, color in COLORS.items()}


def test_the_windows_that_show_most_come_first(dataset: Dataset) -> None:
    table = dataset.windows.set_index("name")[["pixels_land", "pixels_water"]]
    names = telling_windows(dataset, len(dataset))
    assert sorted(names) == sorted(table.index)
    shown = [((table.loc[name] > 0).sum(), table.loc[name].sum()) for name in names]
    assert shown == sorted(shown, reverse=True)
    assert shown[0][0] == 2


def test_a_window_that_is_not_there_is_told(dataset: Dataset, tmp_path: Path) -> None:
    name = str(dataset.windows["name"].iloc[3])
    with pytest.raises(DatasetError, match=f"has no window '{name}x'; names like it are {name}"):
        write_for_gis(dataset, tmp_path / "new", [f"{name}x"], COLORS, Silent())
    assert not (tmp_path / "new").exists()
