"""The offset of Sentinel-2: what the metadata of the catalogues of this world say, and what follows."""

from __future__ import annotations

from typing import Any

import pytest

from olmoearth_core.errors import CatalogueError
from olmoearth_core.imagery.harmonise import sentinel2_offset

OLD_STAC = {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]}
NEW_STAC = {"raster:scale": 0.0001, "raster:offset": -0.1, "bands": [{"name": "B02"}]}
IN_BANDS = {"bands": [{"name": "B02", "raster:scale": 0.0001, "raster:offset": -0.1}]}
APPLIED = {"raster:bands": [{"scale": 0.0001, "offset": 0}]}
PRODUCT = "S2A_MSIL2A_20230815T095031_N0509_R079_T33TWL_20230815T155057.SAFE"
SILENT: dict[str, Any] = {}


@pytest.mark.parametrize(
    ("properties", "asset", "expected", "because"),
    [
        ({"s2:processing_baseline": "04.00"}, SILENT, 1000, "baseline 04.00"),  # Planetary Computer
        ({"s2:processing_baseline": "03.01"}, SILENT, 0, "baseline 03.01"),
        ({"processing:version": "05.11"}, SILENT, 1000, "baseline 05.11"),
        ({"s2:processing_baseline": "05.09"}, APPLIED, 0, "declare an offset of 0"),  # alps_clouds
        ({"s2:processing_baseline": "05.09"}, OLD_STAC, 1000, "declare an offset of -1000"),
        ({}, NEW_STAC, 1000, "declare an offset of -1000"),
        ({}, IN_BANDS, 1000, "declare an offset of -1000"),
        # Earth Search: the flag is about the pixels, whatever the bands declare
        ({"earthsearch:boa_offset_applied": True, "s2:processing_baseline": "05.11"}, OLD_STAC, 0, "is true"),
        ({"earthsearch:boa_offset_applied": False, "s2:processing_baseline": "05.11"}, SILENT, 1000, "is false"),
        ({"earthsearch:boa_offset_applied": False, "s2:processing_baseline": "02.14"}, OLD_STAC, 0, "is false"),
        ({}, SILENT, 0, "none is assumed"),
        (
            {"s2:product_uri": PRODUCT},
            SILENT,
            1000,
            "05.09",
        ),
        ({"s2:processing_baseline": "unknown"}, SILENT, 0, "none is assumed"),
    ],
)
def test_metadata_decide(properties: dict[str, Any], asset: dict[str, Any], expected: int, because: str) -> None:
    item = {"id": "S2A", "properties": properties, "assets": {"B02": asset, "B03": asset}}
    offset, reason = sentinel2_offset(item, ["B02", "B03"])
    assert offset == expected
    assert because in reason


def test_bands_that_disagree_are_refused() -> None:
    item = {"id": "S2A", "properties": {}, "assets": {"B02": OLD_STAC, "B03": APPLIED}}
    with pytest.raises(CatalogueError, match=r"S2A.*0, 1000"):
        sentinel2_offset(item, ["B02", "B03"])
