"""What partners call the bands of Sentinel-2, and the official names."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache

from olmoearth_core.imagery.modality import SENTINEL2_L2A

MASK = "SCL"
CIRRUS = "B10"
"""A band of level 1C only: kept as an asset, but no band of the modality."""
LEFT_OUT = "-"
"""Stands in --bands for a band that is not imported."""

SPELLINGS: dict[str, tuple[str, ...]] = {
    "B01": ("coastal", "coastal aerosol", "aerosol", "ultra blue"),
    "B02": ("blue",),
    "B03": ("green",),
    "B04": ("red",),
    "B05": ("rededge1", "rededge071", "re1", "vegetation red edge 1"),
    "B06": ("rededge2", "rededge075", "re2", "vegetation red edge 2"),
    "B07": ("rededge3", "rededge078", "re3", "vegetation red edge 3"),
    "B08": ("nir", "near infrared"),
    "B8A": ("nir08", "narrow nir", "nir narrow", "rededge4", "re4"),
    "B09": ("nir09", "water vapour", "water vapor"),
    CIRRUS: ("cirrus",),
    "B11": ("swir16", "swir1"),
    "B12": ("swir22", "swir2"),
    MASK: ("scene classification",),
}
"""Official name -> other spellings, the STAC common name first. Only letters and digits count, in any case."""
_CODE = re.compile(r"b0?(\d{1,2}a?)")
_RESOLUTION = re.compile(r"\d+m", re.IGNORECASE)


def official_name(spelling: str) -> str | None:
    """B02 for B02, b2, B2, blue; None for what is no band of Sentinel-2."""
    plain = re.sub(r"[^a-z0-9]", "", spelling.lower())
    if found := _CODE.fullmatch(plain):
        plain = f"b{found[1].zfill(2)}"
    return _by_spelling().get(plain)


def band_in_name(stem: str) -> tuple[str | None, str]:
    """The band that a file's name tells, and the name without it and without a resolution (10m).

    A code (B02) may stand anywhere, the last one counts; a word (red edge 1) stands at the end, so that the folder of
    a green valley holds no green bands.
    """
    parts = [part for part in re.split(r"[^A-Za-z0-9]+", stem) if part and not _RESOLUTION.fullmatch(part)]
    for i in reversed(range(len(parts))):
        name = official_name(parts[i])
        if name is not None and (_CODE.fullmatch(parts[i].lower()) or name == MASK):
            return name, "_".join(parts[:i] + parts[i + 1 :])
    for i in range(max(len(parts) - 4, 0), len(parts)):
        if (name := official_name("".join(parts[i:]))) is not None:
            return name, "_".join(parts[:i])
    return None, "_".join(parts)


def ignored(names: str, ignore: Collection[str]) -> bool:
    """Whether one of the words of `names` is among `ignore`, in whatever case."""
    words = {names.lower(), *re.split(r"[^a-z0-9]+", names.lower())}
    return bool(words & {name.lower() for name in ignore})


def allowed_names() -> str:
    """The official names, for messages."""
    return ", ".join((*SENTINEL2_L2A.bands, CIRRUS, MASK))


@cache
def _by_spelling() -> dict[str, str]:
    return {
        re.sub(r"[^a-z0-9]", "", spelling.lower()): name
        for name, others in SPELLINGS.items()
        for spelling in (name, *others)
    }
