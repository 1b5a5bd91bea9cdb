from __future__ import annotations

import pytest

from olmoearth_core.importing.bands import band_in_name, ignored, official_name


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("B2", "B02"), ("B02", "B02"), ("b02", "B02"), ("blue", "B02"), ("Blue", "B02"), ("B8", "B08"), ("nir", "B08"),
        ("b8a", "B8A"), ("B08A", "B8A"), ("nir08", "B8A"), ("red", "B04"), ("red_edge_1", "B05"), ("rededge1", "B05"),
        ("B10", "B10"), ("cirrus", "B10"), ("SWIR 1", "B11"), ("swir22", "B12"), ("scl", "SCL"), ("B13", None),
        ("ndvi", None), ("", None), ("B0", None),
    ],
)  # fmt: skip
def test_common_spellings(spelling: str, name: str | None) -> None:
    assert official_name(spelling) == name


@pytest.mark.parametrize(
    ("stem", "band", "rest"),
    [
        ("B02", "B02", ""),
        ("T31TDG_20200621T105031_B02_10m", "B02", "T31TDG_20200621T105031"),
        ("T31TDG_20200621T105031_SCL_20m", "SCL", "T31TDG_20200621T105031"),
        ("field_red_edge_1", "B05", "field"),
        ("place_20240501_nir", "B08", "place_20240501"),
        ("green_valley_20240501_B11", "B11", "green_valley_20240501"),
        ("green_valley_20240501", None, "green_valley_20240501"),
        ("S2B_8A_x", None, "S2B_8A_x"),
    ],
)
def test_a_band_in_a_file_name(stem: str, band: str | None, rest: str) -> None:
    assert band_in_name(stem) == (band, rest)


def test_words_to_ignore() -> None:
    assert ignored("T31TDG_20200621_TCI_10m", {"tci"})
    assert not ignored("T31TDG_20200621_B02_10m", {"tci", "b"})
