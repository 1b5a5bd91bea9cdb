"""How far a training set has moved from the one before it: of bands, and of classes.

Measured by the population stability index: the sum over bins of (new - old) * ln(new / old), the bins being the
tenths of the old values. Below 0.1 is little, above 0.25 a different population, by the usual rule (Siddiqi 2006,
Credit Risk Scorecards). What came before is not part of a training set, so none of this enters what is hashed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SMALL, LARGE = 0.1, 0.25
_TENTHS = tuple(range(10, 100, 10))
_LEAST = 1e-4
"""Share that an empty bin counts as."""


@dataclass(frozen=True)
class Drift:
    """One thing that is compared.

    Attributes:
        about: "sentinel2_l2a B04", or "classes".
        index: the population stability index; None for what only one of the two has.
        found: what moved, in words.
    """

    about: str
    index: float | None
    found: str

    @property
    def large(self) -> bool:
        """Whether it is another population."""
        return self.index is None or self.index > LARGE


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Drift]:
    """Compare the statistics of two training sets (`dataset_statistics`); bands that only one has are told too."""
    found = [drift for modality in new["bands"] for drift in _bands(modality, old, new)]
    gone = [m for m in old.get("bands", {}) if m not in new["bands"]]
    found += [Drift(modality, None, "is not there any more") for modality in gone]
    return [*found, _classes(old["classes"], new["classes"])]


def stability_index(old: Sequence[float], new: Sequence[float]) -> float:
    """The index of two lists of shares; both sum to 1."""
    a, b = np.maximum(old, _LEAST), np.maximum(new, _LEAST)
    return float(((b - a) * np.log(b / a)).sum())


def _bands(modality: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Drift]:
    before, after = old.get("bands", {}).get(modality, {}), new["bands"][modality]
    drifts = []
    for band in dict.fromkeys((*before, *after)):
        about, a, b = f"{modality} {band}", before.get(band, {"count": 0}), after.get(band, {"count": 0})
        if not a["count"] or not b["count"]:
            if a["count"] != b["count"]:
                drifts.append(Drift(about, None, "is new" if b["count"] else "is not there any more"))
            continue
        # tenths of the old values; a band of few values has fewer
        edges = np.unique([a["percentiles"][str(p)] for p in _TENTHS])
        shares = [np.diff(np.interp(edges, *_distribution(one)), prepend=0, append=1) for one in (a, b)]
        told = f"median {a['percentiles']['50']:g} -> {b['percentiles']['50']:g}, mean {a['mean']:g} -> {b['mean']:g}"
        index = stability_index(shares[0].tolist(), shares[1].tolist())
        drifts.append(Drift(about, round(index, 4), told))
    return drifts


def _distribution(band: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """(values, share of the pixels that lie below each), both rising."""
    points = {float(band["min"]): 0.0}
    for percent, value in band["percentiles"].items():
        points[float(value)] = int(percent) / 100
    points[float(band["max"])] = 1.0
    return list(points), list(points.values())


def _classes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Drift:
    names = list(dict.fromkeys((*old, *new)))
    before, after = (_shares(classes, names) for classes in (old, new))
    moved = max(names, key=lambda name: round(abs(after[names.index(name)] - before[names.index(name)]), 6))
    k = names.index(moved)
    return Drift("classes", round(stability_index(before, after), 4), f"'{moved}' {before[k]:.1%} -> {after[k]:.1%}")


def _shares(classes: Mapping[str, Any], names: Sequence[str]) -> list[float]:
    pixels = [sum(split["pixels"] for split in classes.get(name, {}).values()) for name in names]
    total = max(sum(pixels), 1)
    return [count / total for count in pixels]
