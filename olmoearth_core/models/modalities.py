"""The three sensors that the OlmoEarth encoders have seen: bands, order, wavelengths, statistics. Data only.

Statistics are those of the pretraining data (published as `computed.json` with the official package, Apache-2.0).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

MISSING = -99999.0
"""The value that the official data sets write where there is no measurement; refused in valid pixels."""


@dataclass(frozen=True)
class Band:
    """One spectral or radar band: statistics in physical units (DN or dB), wavelength in nm."""

    name: str
    mean: float
    std: float
    wavelength: float | None = None


@dataclass(frozen=True)
class Modality:
    """One sensor. `bands` is the official order; `band_sets` are the bands that share a token in v1."""

    name: str
    bands: tuple[Band, ...]
    band_sets: tuple[tuple[str, ...], ...]
    fill_within: tuple[tuple[str, ...], ...] = ()
    """Bands that may stand in for one another where v1 lacks one (never thermal for optical)."""

    @cached_property
    def band_names(self) -> tuple[str, ...]:
        """Band names in official order."""
        return tuple(band.name for band in self.bands)

    def nearest(self, missing: str, supplied: tuple[str, ...]) -> str | None:
        """The supplied band nearest in wavelength to `missing` (ties: the shorter), or None where none may stand in."""
        wavelength = {band.name: band.wavelength for band in self.bands}
        family = next((group for group in self.fill_within if missing in group), ())
        near = [(abs(w - wavelength[missing]), w, b) for b in family if b in supplied and (w := wavelength[b])]  # type: ignore[operator]
        return min(near)[2] if near else None


SENTINEL2 = Modality(
    "sentinel2_l2a",
    bands=(
        Band("B02", 1188.9412572078477, 1859.1923971769581, 490),
        Band("B03", 1407.7739105458452, 1727.7387413631088, 560),
        Band("B04", 1513.0573882432757, 1740.7757298757895, 665),
        Band("B08", 2755.481305028308, 1612.2565699990187, 842),
        Band("B05", 1890.9893042634167, 1754.7320388511766, 705),
        Band("B06", 2483.7812315422448, 1622.1172720635755, 740),
        Band("B07", 2722.728248756412, 1621.8226170190276, 783),
        Band("B8A", 2885.570263047681, 1611.3587521042082, 865),
        Band("B11", 2562.852607796968, 1441.5471830655151, 1610),
        Band("B12", 1914.1383249044113, 1328.8914382756407, 2190),
        Band("B01", 1115.8494388252218, 1955.6991794280914, 443),
        Band("B09", 3269.812554170875, 2651.088425085525, 945),
    ),
    band_sets=(
        ("B02", "B03", "B04", "B08"),
        ("B05", "B06", "B07", "B8A", "B11", "B12"),
        ("B01", "B09"),
    ),
    fill_within=(("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"),),
)

SENTINEL1 = Modality(
    "sentinel1",
    bands=(
        Band("vv", -11.648990747328444, 10.840350299936597),
        Band("vh", -17.745436133270044, 10.216274681392647),
    ),
    band_sets=(("vv", "vh"),),
)

LANDSAT = Modality(
    "landsat",
    bands=(
        Band("B8", 10132.090998288624, 7788.7282476413675, 590),
        Band("B1", 11000.959519415692, 7857.9205791510285, 443),
        Band("B2", 10493.416292898208, 7872.392135393957, 482),
        Band("B3", 10146.318478942761, 7676.2774595217115, 561),
        Band("B4", 10236.446029167704, 8038.218121686258, 655),
        Band("B5", 14427.021492873682, 9302.431605916356, 865),
        Band("B6", 12164.08145353199, 7442.390533225441, 1609),
        Band("B7", 9712.032951062303, 6037.712185433222, 2201),
        Band("B9", 4585.469566989013, 2549.745355740949, 1373),
        Band("B10", 21347.89356940543, 10957.2815012006, 10900),
        Band("B11", 19686.23205859348, 9911.421224126807, 12000),
    ),
    band_sets=(("B8",), ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B9", "B10", "B11")),
    fill_within=(("B1", "B2", "B3", "B8", "B4", "B5", "B9", "B6", "B7"), ("B10", "B11")),
)

MODALITIES = {modality.name: modality for modality in (SENTINEL2, SENTINEL1, LANDSAT)}
"""In the one order in which tokens of several sensors follow each other."""
