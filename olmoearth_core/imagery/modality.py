"""What the platform knows of each modality: bands, asset names in the catalogues, stored values, what hides the ground.

One table entry a modality, of the same names and band order as the encoders' (models/modalities.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from olmoearth_core.errors import ImageryError

Values = Literal["reflectance", "backscatter", "counts"]


@dataclass(frozen=True)
class MaskRule:
    """How a per-pixel quality asset tells that a pixel is no observation of the ground.

    Attributes:
        assets: its names in the catalogues.
        kind: "classes": a pixel holds one of many values; "bits": each bit of it says something.
        clouds: values (or bit numbers) that mean cloud.
        others: those that mean shadow, defect or no data.
    """

    assets: tuple[str, ...]
    kind: Literal["classes", "bits"]
    clouds: frozenset[int]
    others: frozenset[int]


@dataclass(frozen=True)
class Modality:
    """One kind of imagery."""

    name: str
    bands: Mapping[str, tuple[str, ...]]
    """Band -> its asset names in the catalogues; in the official order of the encoders (facts/encoders.md)."""
    values: Values
    """What a composed cube holds: "reflectance" x 10000 (uint16), "backscatter" in dB (float32), or "counts", the
    sensor's own whole numbers (uint16)."""
    platforms: tuple[str, ...]
    """How `platform` or `constellation` of its STAC Items begins."""
    mask: MaskRule | None = None
    collections: tuple[str, ...] = ()
    """What STAC APIs usually call it: searched there where the project names no collection."""

    @property
    def dtype(self) -> str:
        """The numpy dtype of a composed cube and of what is sampled for it, where 0 stands for nodata."""
        return "float32" if self.values == "backscatter" else "uint16"


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
    values="reflectance",
    platforms=("sentinel-2",),
    # Sen2Cor's scene classification: 0 nodata, 1 saturated or defective, 3 cloud shadow, 8 and 9 cloud (medium, high
    # probability), 10 thin cirrus hide the ground or falsify it. Kept: 2 (topographic shadow: dark, but ground),
    # 4 vegetation, 5 bare, 6 water, 7 unclassified (mostly ground), 11 snow (it is what lay there that day).
    mask=MaskRule(("SCL", "scl"), "classes", clouds=frozenset({8, 9, 10}), others=frozenset({0, 1, 3})),
    collections=("sentinel-2-l2a",),
)

SENTINEL1 = Modality(
    name="sentinel1",
    bands={"vv": ("vv", "VV", "gamma0_vv"), "vh": ("vh", "VH", "gamma0_vh")},
    values="backscatter",
    platforms=("sentinel-1",),
    collections=("sentinel-1-rtc",),
)

LANDSAT = Modality(
    name="landsat",
    bands={
        "B8": ("B8", "pan"),
        "B1": ("B1", "coastal"),
        "B2": ("B2", "blue"),
        "B3": ("B3", "green"),
        "B4": ("B4", "red"),
        "B5": ("B5", "nir08"),
        "B6": ("B6", "swir16"),
        "B7": ("B7", "swir22"),
        "B9": ("B9", "cirrus"),
        "B10": ("B10", "lwir11"),
        "B11": ("B11", "lwir12"),
    },
    values="counts",
    platforms=("landsat-8", "landsat-9", "landsat_8", "landsat_9"),
    # CFMask in QA_PIXEL (USGS LSDS-1619, table 6-3): bit 0 fill, 1 dilated cloud, 2 cirrus, 3 cloud, 4 cloud shadow.
    # Kept: 5 snow, 6 clear, 7 water.
    mask=MaskRule(("QA_PIXEL", "qa_pixel"), "bits", clouds=frozenset({1, 2, 3}), others=frozenset({0, 4})),
    collections=("landsat-c2l1",),
)

MODALITIES: Mapping[str, Modality] = {m.name: m for m in (SENTINEL2_L2A, SENTINEL1, LANDSAT)}


def get_modality(name: str) -> Modality:
    """The table entry of `name`.

    Raises:
        ImageryError: there is none.
    """
    try:
        return MODALITIES[name]
    except KeyError:
        raise ImageryError(f"modality '{name}' is not known; allowed are {', '.join(MODALITIES)}") from None
