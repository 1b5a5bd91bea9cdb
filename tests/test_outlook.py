"""What validate tells on success is what preprocessing then makes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from shore import BANDS, DATE, clear_scene, halves, run_to_dataset, write_shore

from olmoearth_core.dataset.dataset import open_dataset
from olmoearth_core.imagery.modality import get_modality
from olmoearth_core.outlook import outlook
from olmoearth_core.progress import Silent


@pytest.mark.parametrize("buffer", [0.0, 20.0])
def test_the_outlook_comes_true(tmp_path: Path, buffer: float) -> None:
    split = {"block_size": 160, "validation": 0.1, "test": 0.1, "buffer": buffer}
    project = write_shore(tmp_path, {"dataset.split": split}, scenes=[clear_scene("A", DATE)], labels=halves(DATE))
    expected = outlook(project, Silent())
    dataset = open_dataset(run_to_dataset(project).folder)
    table = dataset.windows
    assert expected.windows == {"train": 0, "validation": 0, "test": 0} | Counter(table["split"])
    blocks = table.groupby("split").apply(lambda of: len({*zip(of.block_column, of.block_row, strict=True)}))
    assert expected.blocks == {"train": 0, "validation": 0, "test": 0} | blocks.to_dict()
    for name, found in expected.classes.items():
        pixels = table[f"pixels_{name}"]
        assert found.windows == {s: int((pixels[table["split"] == s] > 0).sum()) for s in expected.windows}
    assert (sum(expected.left_out.values()) > 0) == (buffer > 0)
    assert sum(found.share for found in expected.classes.values()) == pytest.approx(1)
    missing = set(get_modality("sentinel2_l2a").bands) - set(BANDS)
    assert missing
    assert {modality: set(bands) for modality, bands in expected.missing_bands.items()} == {"sentinel2_l2a": missing}
