"""`olmoearth import` as a partner calls it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from partner import Run


def write_patches(folder: Path, count: int = 8) -> Path:
    """Patches of two bands and 16 pixels in folders named by their class, without names of bands or dates."""
    for i in range(count):
        path = folder / ("forest", "lake")[i % 2] / f"patch_{i}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(1, 3000, (2, 16, 16)).astype(np.uint16)
        with rasterio.open(
            path, "w", driver="GTiff", count=2, height=16, width=16, dtype="uint16", crs="EPSG:32631",
            transform=Affine(10, 0, 500_000 + 400 * i, 0, -10, 4_690_000),
        ) as file:  # fmt: skip
            file.write(pixels)
    return folder


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    return write_patches(tmp_path / "patches")


def test_from_patches_to_a_project_that_is_ready(patches: Path, tmp_path: Path, olmoearth: Run) -> None:
    asked = ("import", patches, "--project", tmp_path / "woods", "--bands", "B02,B03")
    refused = olmoearth(*asked)
    assert refused.code == 1
    assert "tells no date" in refused.err
    assert "--date" in refused.err
    assert not (tmp_path / "woods").exists()

    made = olmoearth(*asked, "--date", "2024-05-01", "--json")
    assert made.code == 0, made.err
    assert made.json["kind"] == "patches"
    assert made.json["scenes"] == 8
    assert made.json["classes"] == {"forest": 4, "lake": 4}
    assert made.json["catalogue"] == str(tmp_path / "woods" / "source" / "catalog.json")
    assert made.json["first"] == made.json["last"] == "2024-05-01"
    checked = olmoearth("validate", tmp_path / "woods", "--json")
    assert (checked.code, checked.json["valid"]) == (0, True)
    assert sum(checked.json["outlook"]["windows"].values()) == 8


def test_what_a_person_reads(patches: Path, tmp_path: Path, olmoearth: Run) -> None:
    made = olmoearth("import", patches, "--to", tmp_path / "out", "--bands", "B02,B10", "--date", "2024-05-01")
    assert made.code == 0, made.err
    for words in (
        "forest (4), lake (4)",
        "8 of Sentinel-2 L1C",
        "2024-05-01",
        "warning",
        "level 1C",
        "out/catalog.json",
    ):
        assert words in made.out
    assert "windows: centred" in made.out, "the project.yaml that fits"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--to", "out", "--date", "someday"), "--date someday: expected a date like 2024-05-01"),
        ((), "Name the folder of the import with --to"),
        (("--to", "out", "--class", "forest"), "expected NAME=VALUES"),
        (("--to", "out", "--bands", "B02,B77", "--date", "2024-05-01"), "'B77' is no band of Sentinel-2"),
    ],
)
def test_options_that_say_nothing(
    patches: Path, tmp_path: Path, olmoearth: Run, arguments: tuple[str, ...], words: str
) -> None:
    refused = olmoearth("import", patches, *arguments, cwd=tmp_path)
    assert (refused.code, refused.out) == (1, "")
    assert words in refused.err
    assert "Traceback" not in refused.err
    assert not (tmp_path / "out").exists()
