"""Change between two real map files: every pixel accounted for, and what cannot be compared is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rio_cogeo.cogeo import cog_validate
from test_sample import CLASSES, fill_table, some_classes, write_map
from typer.testing import CliRunner

from flows.cli.app import app
from olmoearth_core.assessment.assess import assess
from olmoearth_core.assessment.change import change
from olmoearth_core.assessment.sample import draw
from olmoearth_core.errors import MappingError


@pytest.fixture
def maps(tmp_path: Path) -> tuple[Path, Path]:
    earlier, later = some_classes(0), some_classes(0)
    later[40:90, 50:120] = 2  # built
    later[140:, :] = 255  # never clear
    old = write_map(tmp_path / "old/map.tif", earlier, OLMOEARTH_MAP_ID="old")
    return old, write_map(tmp_path / "new/map.tif", later, OLMOEARTH_MAP_ID="new")


def test_every_common_pixel_is_stable_or_became_something(maps: tuple[Path, Path], tmp_path: Path) -> None:
    report = change(*maps, tmp_path / "change")
    with (
        rasterio.open(maps[0]) as one,
        rasterio.open(maps[1]) as two,
        rasterio.open(tmp_path / "change/map.tif") as found,
    ):
        old, new, made = one.read(1), two.read(1), found.read(1)
        names = json.loads(found.tags()["OLMOEARTH_CLASSES"])
    assert cog_validate(tmp_path / "change/map.tif")[0]
    known = (old != 255) & (new != 255)
    assert ((made != 255) == known).all()
    for value, name in names.items():
        here = made == int(value)
        [[before, after]] = np.unique(np.stack([old[here], new[here]]), axis=1).T
        text = f"stable {CLASSES[after]}" if before == after else f"{CLASSES[before]} to {CLASSES[after]}"
        assert name == text
        assert report["kinds"][name]["pixels"] == here.sum()
    assert report["changed_hectares"] == pytest.approx((known & (old != new)).sum() / 100, rel=1e-3)
    rows = list(csv.reader((tmp_path / "change/matrix.csv").read_text().splitlines()))
    assert float(rows[-1][-1]) == pytest.approx(known.sum() / 100, rel=1e-3)
    assert float(rows[2][3]) == pytest.approx(((old == 1) & (new == 2)).sum() / 100, rel=1e-3)
    for picture in ("matrix.png", "preview.png"):
        assert (tmp_path / "change" / picture).stat().st_size > 5000
    assert not (tmp_path / "change/.scratch").exists()


def test_its_areas_get_errors_from_a_sample(maps: tuple[Path, Path], tmp_path: Path) -> None:
    change(*maps, tmp_path / "change")
    draw([tmp_path / "change/map.tif"], tmp_path / "sample", size=100, least=10)
    names = json.loads((tmp_path / "sample/sample.json").read_bytes())["classes"]
    assert "forest to bare & built" in names
    fill_table(tmp_path / "sample", interpret_change(tmp_path / "sample", names))
    assert assess(tmp_path / "sample")["classes"]["forest to bare & built"]["area_hectares"]["value"] > 10


def interpret_change(folder: Path, names: list[str]) -> dict[int, str]:

    units = json.loads((folder / "sample.json").read_bytes())["units"]
    return {unit["id"]: names[unit["mapped"]] for unit in units}


def write_probabilities(map_path: Path, best: np.ndarray) -> None:
    """Beside a map: `best` (H, W) for the mapped class, the rest shared."""
    with rasterio.open(map_path) as source:
        classes, profile = source.read(1), source.profile
    chances = np.stack([np.where(classes == k, best, (1 - best) / 2) for k in range(3)])
    stored = np.where(classes == 255, 255, np.rint(chances * 250)).astype(np.uint8)
    with rasterio.open(map_path.with_name("probabilities.tif"), "w", **{**profile, "count": 3}) as target:
        target.write(stored)
        target.scales = [1 / 250] * 3


def test_differences_that_nobody_is_sure_of_are_uncertain(maps: tuple[Path, Path], tmp_path: Path) -> None:
    sure = np.full((150, 200), 0.9)
    sure[:, :85] = 0.5
    write_probabilities(maps[0], np.full((150, 200), 0.9))
    write_probabilities(maps[1], sure)
    report = change(*maps, tmp_path / "change", min_confidence=0.8)
    with rasterio.open(maps[0]) as one, rasterio.open(maps[1]) as two:
        old, new = one.read(1), two.read(1)
    differ = (old != 255) & (new != 255) & (old != new)
    assert report["kinds"]["uncertain change"]["pixels"] == differ[:, :85].sum() > 0
    changed = sum(found["pixels"] for name, found in report["kinds"].items() if " to " in name)
    assert changed == differ[:, 85:].sum() > 0


def test_maps_that_overlap_in_part_are_compared_there(tmp_path: Path) -> None:
    old = write_map(tmp_path / "old/map.tif", some_classes(1))
    new = write_map(tmp_path / "new/map.tif", some_classes(1)[:, 50:], west=400_500)
    report = change(old, new, tmp_path / "change")
    assert report["changed_hectares"] == 0


def test_what_cannot_be_compared_is_refused(maps: tuple[Path, Path], tmp_path: Path) -> None:
    other = json.dumps({"0": "water", "1": "land"})
    strange = write_map(tmp_path / "strange.tif", some_classes(0) % 2, OLMOEARTH_CLASSES=other)
    with pytest.raises(MappingError, match=r"has the classes water, forest, bare & built, .* has water, land"):
        change(maps[0], strange, tmp_path / "c")
    half = write_map(tmp_path / "half.tif", some_classes(0), west=400_005)
    with pytest.raises(MappingError, match=r"different grids .*--resample"):
        change(maps[0], half, tmp_path / "c")
    assert change(maps[0], half, tmp_path / "resampled", resample=True)["changed_hectares"] > 0
    zone = write_map(tmp_path / "zone.tif", some_classes(0), crs="EPSG:32636")
    with pytest.raises(MappingError, match="EPSG:32636"):
        change(maps[0], zone, tmp_path / "c")
    far = write_map(tmp_path / "far.tif", some_classes(0), west=900_000)
    with pytest.raises(MappingError, match="no pixel in common"):
        change(maps[0], far, tmp_path / "c")
    with pytest.raises(MappingError, match=r"probabilities\.tif: not there"):
        change(*maps, tmp_path / "c", min_confidence=0.5)
    with pytest.raises(MappingError, match="from 0 to 1"):
        change(*maps, tmp_path / "c", min_confidence=2)
    assert not (tmp_path / "c/map.tif").exists()


def test_the_command(maps: tuple[Path, Path], tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["change", str(maps[0]), str(maps[1].parent), "--to", str(tmp_path / "change")])
    assert shown.exit_code == 0, shown.output
    assert "ha changed by the maps" in shown.output
