"""What the platform knows of each modality: bands, asset names in the catalogues, nodata, which classes are cloud.

One table entry a modality. Sentinel-1 and Landsat go into MODALITIES beside Sentinel-2; nothing else names bands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from olmoearth_core.errors import ImageryError


@dataclass(frozen=True)
class Modality:
    """One kind of imagery."""

    name: str
    bands: Mapping[str, tuple[str, ...]]
    """Band -> its asset names in the catalogues; in the official order of the encoders (facts/encoders.md)."""
    dtype: str
    """numpy dtype of a composed cube. The value 0 stands for nodata in all of them."""
    platforms: tuple[str, ...]
    """How `platform` or `constellation` of its STAC Items begins."""
    mask_assets: tuple[str, ...] = ()
    """Asset names of the per-pixel classification that tells clouds; empty where there is none."""
    masked_classes: frozenset[int] = frozenset()
    """Values of that classification at which a pixel is no observation of the ground."""
    collection: str = ""
    """What a STAC API usually calls it: searched there where the project names no collection."""


SENTINEL2_L2A = Modality(
    name="sentinel2_l2a",
    bands={
        "B02": ("B02", "blue"),
        "B03": ("B03", "green"),
        "B04": ("B04", "red"),
        "B08": ("B08", "nir"),
        "B05": ("B05", "rededge1"),
        "B06": ("B06", "rededge2"),
        "B07": ("B07", "rededge3"),
        "B8A": ("B8A", "nir08"),
        "B11": ("B11", "swir16"),
        "B12": ("B12", "swir22"),
        "B01": ("B01", "coastal"),
        "B09": ("B09", "nir09"),
    },
    dtype="uint16",
    platforms=("sentinel-2",),
    mask_assets=("SCL", "scl"),
    # Sen2Cor's scene classification: 0 nodata, 1 saturated or defective, 3 cloud shadow, 8 and 9 cloud (medium, high
    # probability), 10 thin cirrus hide the ground or falsify it. Kept: 2 (topographic shadow: dark, but ground),
    # 4 vegetation, 5 bare, 6 water, 7 unclassified (mostly ground), 11 snow (it is what lay there that day).
    masked_classes=frozenset({0, 1, 3, 8, 9, 10}),
    collection="sentinel-2-l2a",
)

MODALITIES: Mapping[str, Modality] = {m.name: m for m in (SENTINEL2_L2A,)}


def get_modality(name: str) -> Modality:
    """The table entry of `name`.

    Raises:
        ImageryError: there is none.
    """
    try:
        return MODALITIES[name]
    except KeyError:
        raise ImageryError(f"modality '{name}' is not known; allowed are {', '.join(MODALITIES)}") from None
