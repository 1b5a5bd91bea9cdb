"""A training set as files for QGIS: the same pixels in the same place."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from shore import DATE, clear_scene, halves, run_to_dataset, write_shore

from olmoearth_core.dataset.dataset import Dataset, open_dataset
from olmoearth_core.dataset.gis import write_for_gis
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
    assert {*rasters, tmp_path / name / "target.tif", tmp_path / "windows.gpkg"} == set(written)
    for t, path in enumerate(rasters):
        with rasterio.open(path) as raster:
            assert raster.descriptions == dataset.bands["sentinel2_l2a"]
            assert np.array_equal(raster.read(), sample.inputs["sentinel2_l2a"][t])
            assert np.array_equal(raster.dataset_mask() > 0, sample.valid["sentinel2_l2a"][t])


def test_a_window_that_is_not_there_is_told(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has no window 'nowhere'"):
        write_for_gis(dataset, tmp_path, ["nowhere"], COLORS, Silent())
