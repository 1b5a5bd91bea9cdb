"""STAC Items as scenes: other names of assets, products that are refused, what is recorded of the stored values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasters import Layer, StacScene, open_scenes, write_catalogue

from olmoearth_core.errors import CatalogueError, NoSceneError
from olmoearth_core.imagery.modality import MODALITIES, get_modality

ONE = Layer(np.ones((2, 2), np.uint16))
POWER = Layer(np.full((2, 2), 0.1, np.float32))


def write(folder: Path, assets: tuple[str, ...], layer: Layer = ONE, day: str = "2024-05-05", **about: Any) -> Path:
    scene = StacScene("x", day, dict.fromkeys(assets, layer), cloud_cover=None, properties=about)
    return write_catalogue(folder, [scene])


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("spelling", [0, 1])
def test_bands_are_found_under_the_names_of_either_catalogue(tmp_path: Path, modality: str, spelling: int) -> None:
    kind = get_modality(modality)
    names = {band: spellings[spelling] for band, spellings in kind.bands.items()}
    about = {"platform": kind.platforms[0]} | ({"landsat:correction": "L1TP"} if modality == "landsat" else {})
    catalogue = write(tmp_path, tuple(names.values()), POWER if modality == "sentinel1" else ONE, **about)
    (scene,) = open_scenes(catalogue, [modality]).scenes
    assert {band: Path(href).stem for band, href in scene.assets.items()} == names


@pytest.mark.parametrize(
    ("modality", "assets", "about", "told"),
    [
        ("landsat", ("red",), {"platform": "landsat-9", "landsat:correction": "L2SP"}, "Level 1"),
        ("landsat", ("red",), {"platform": "landsat-8", "processing:level": "L2"}, "Level 1"),
        ("landsat", ("red",), {"platform": "landsat-8"}, "does not say whether"),
        ("sentinel1", ("vv", "vh"), {"platform": "sentinel-1a", "sar:product_type": "GRD"}, "terrain corrected"),
    ],
)
def test_products_that_the_encoders_do_not_know_are_refused_with_the_reason(
    tmp_path: Path, modality: str, assets: tuple[str, ...], about: dict[str, str], told: str
) -> None:
    with pytest.raises(NoSceneError, match=told) as caught:
        open_scenes(write(tmp_path, assets, **about), [modality])
    assert "Refused: item x" in str(caught.value)


def test_an_rtc_scene_names_the_product_it_was_made_of(tmp_path: Path) -> None:
    """Items of the Planetary Computer's sentinel-1-rtc carry sar:product_type GRD."""
    name = "S1A_IW_GRDH_1SDV_20240505T054321_20240505T054346_053727_068688_rtc"
    scene = StacScene(name, "2024-05-05", {"vv": POWER}, None, {"platform": "SENTINEL-1A", "sar:product_type": "GRD"})
    assert [s.id for s in open_scenes(write_catalogue(tmp_path, [scene]), ["sentinel1"]).scenes] == [name]


def test_a_refused_item_does_not_hide_the_others(tmp_path: Path) -> None:
    good = {"platform": "landsat-8", "landsat:correction": "L1TP"}
    scenes = [
        StacScene("good", "2024-05-05", {"red": ONE}, properties=good),
        StacScene("bad", "2024-05-06", {"red": ONE}, properties={**good, "landsat:correction": "L2SP"}),
    ]
    assert [s.id for s in open_scenes(write_catalogue(tmp_path, scenes), ["landsat"]).scenes] == ["good"]


def test_older_landsats_are_other_sensors(tmp_path: Path) -> None:
    about = {"platform": "landsat-7", "landsat:correction": "L1TP"}
    with pytest.raises(NoSceneError, match="1 show no band"):
        open_scenes(write(tmp_path, ("red",), **about), ["landsat"])


def test_what_decided_how_values_are_read_is_kept(tmp_path: Path) -> None:
    in_db = {"raster:bands": [{"unit": "dB"}]}
    about = {"platform": "sentinel-1a"}
    scenes = [
        StacScene("dB", "2024-05-05", {"vv": POWER}, properties=about, asset_fields=in_db),
        StacScene("power", "2024-05-06", {"vv": POWER}, properties=about),
    ]
    found = {s.id: (s.stored, s.reason) for s in open_scenes(write_catalogue(tmp_path, scenes), ["sentinel1"]).scenes}
    assert found == {
        "dB": ("decibels", "the assets declare the unit db"),
        "power": ("power", "the assets declare no unit: linear power"),
    }


def test_a_date_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="item x: datetime '2024-99-05T' is none"):
        open_scenes(write(tmp_path, ("B02",), day="2024-99-05T"))
