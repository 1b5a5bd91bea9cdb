"""Drift between two training sets: what moved is told, what did not is not."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from olmoearth_core.dataset.drift import compare, stability_index
from olmoearth_core.dataset.statistics import PERCENTILES


def statistics(mean: float = 2000, spread: float = 300, forest: int = 700) -> dict[str, Any]:
    """Of a band with normal values, and of two classes; 1000 labelled pixels."""
    values = np.random.default_rng(0).normal(mean, spread, 50_000).round()
    band = {
        "count": len(values),
        "mean": float(values.mean()),
        "std": float(values.std()),
        "min": int(values.min()),
        "max": int(values.max()),
        "percentiles": {str(p): int(np.percentile(values, p)) for p in PERCENTILES},
    }
    classes = {"forest": {"train": {"pixels": forest}}, "water": {"train": {"pixels": 1000 - forest}}}
    return {"bands": {"sentinel2_l2a": {"B04": band}}, "classes": classes}


def test_the_same_set_has_not_moved() -> None:
    assert [(d.about, d.large) for d in compare(statistics(), statistics())] == [
        ("sentinel2_l2a B04", False),
        ("classes", False),
    ]
    assert all(abs(d.index or 0) < 0.001 for d in compare(statistics(), statistics()))


@pytest.mark.parametrize(
    ("change", "large"), [({"mean": 2030}, False), ({"mean": 3000}, True), ({"spread": 900}, True)]
)
def test_a_band_that_moved_is_told(change: dict[str, float], large: bool) -> None:
    band, _ = compare(statistics(), statistics(**change))  # type: ignore[arg-type]
    assert band.large is large
    assert band.found.startswith("median ")


def test_the_index_is_that_of_its_definition() -> None:
    # (0.3 - 0.5) ln(0.3/0.5) + (0.7 - 0.5) ln(0.7/0.5)
    assert stability_index([0.5, 0.5], [0.3, 0.7]) == pytest.approx(0.2 * (np.log(0.7 / 0.5) - np.log(0.3 / 0.5)))
    band, _ = compare(statistics(), statistics(mean=2300))
    shares = np.histogram(
        np.random.default_rng(1).normal(2300, 300, 200_000),
        [-np.inf, *np.percentile(np.random.default_rng(0).normal(2000, 300, 50_000), range(10, 100, 10)), np.inf],
    )[0]
    assert band.index == pytest.approx(stability_index([0.1] * 10, (shares / shares.sum()).tolist()), rel=0.1)


def test_classes_and_bands_that_come_and_go_are_told() -> None:
    *_, classes = compare(statistics(), statistics(forest=200))
    assert classes.large
    assert classes.found == "'forest' 70.0% -> 20.0%"
    other = copy.deepcopy(statistics())
    other["bands"]["sentinel1"] = {"vv": other["bands"]["sentinel2_l2a"]["B04"]}
    other["bands"]["sentinel2_l2a"] = {}
    told = {(d.about, d.found) for d in compare(statistics(), other) if d.index is None}
    assert told == {("sentinel2_l2a B04", "is not there any more"), ("sentinel1 vv", "is new")}


def test_a_band_of_few_values_has_no_empty_bins() -> None:
    flat = statistics()
    band = flat["bands"]["sentinel2_l2a"]["B04"]
    band.update(min=0, max=1, percentiles={str(p): int(p > 50) for p in PERCENTILES})
    assert all(abs(d.index or 0) < 0.05 for d in compare(flat, flat))
