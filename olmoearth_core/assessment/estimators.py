"""Design-based accuracy and area from a stratified reference sample.

Source: Olofsson, P., Foody, G. M., Herold, M., Stehman, S. V., Woodcock, C. E., Wulder, M. A. (2014): Good practices
for estimating area and assessing accuracy of land change. Remote Sensing of Environment 148, 42-57. "Eq." is theirs.
The map decides only where the sample lies: areas come from the reference, so they hold whatever the map's mistakes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from olmoearth_core.errors import MappingError

Z = 1.959963984540054
"""Half the width of a 95 % interval in standard errors."""


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error; None where the sample says nothing of it."""

    value: float | None
    error: float | None

    def interval(self, low: float = 0.0, high: float = 1.0) -> tuple[float, float] | None:
        """The 95 % interval (normal approximation), within what is possible."""
        if self.value is None or self.error is None:
            return None
        return max(low, self.value - Z * self.error), min(high, self.value + Z * self.error)


@dataclass(frozen=True)
class Accuracy:
    """What a sample says of a map with K classes.

    Attributes:
        proportions: (K, K) estimated share of the whole area that is mapped i and truly j (eq. 4).
        overall: overall accuracy.
        users: by class: of what is mapped as it, how much is it.
        producers: by class: of what it is, how much is mapped as it.
        shares: by class: its share of the whole area, from the reference (eq. 9, 10).
    """

    proportions: np.ndarray
    overall: Estimate
    users: list[Estimate]
    producers: list[Estimate]
    shares: list[Estimate]


def accuracy(counts: np.ndarray, areas: Sequence[float], names: Sequence[str]) -> Accuracy:
    """Estimate accuracy and areas.

    Args:
        counts: (K, K) sample units, rows mapped classes (the strata), columns reference classes.
        areas: of the mapped classes, in any unit; a class that is not mapped anywhere has 0 and an empty row.
        names: of the classes, for messages.

    Raises:
        MappingError: a mapped class has fewer than two units: its variance cannot be known.
    """
    n, area = counts.astype(float), np.asarray(areas, float)
    rows = n.sum(axis=1)
    few = [name for name, size, units in zip(names, area, rows, strict=True) if size > 0 and units < 2]
    if few:
        raise MappingError(
            f"Fewer than two units of the mapped class {', '.join(few)} have a reference class, so no error can be "
            "estimated. Interpret more of them, or draw a larger sample."
        )
    weights = area / area.sum()
    share = n / np.maximum(rows, 1)[:, None]  # n_ij / n_i.
    proportions = weights[:, None] * share
    spread = share * (1 - share) / np.maximum(rows - 1, 1)[:, None]  # variance of each n_ij / n_i.
    right = np.diag(share)
    overall = Estimate(float(proportions.trace()), float(np.sqrt((weights**2 * np.diag(spread)).sum())))  # eq. 1, 5
    users = [
        Estimate(float(right[i]), float(np.sqrt(spread[i, i]))) if area[i] > 0 else Estimate(None, None)  # eq. 2, 6
        for i in range(len(area))
    ]
    totals = proportions.sum(axis=0)
    errors = np.sqrt((weights[:, None] ** 2 * spread).sum(axis=0))  # eq. 10
    shares = [Estimate(float(total), float(error)) for total, error in zip(totals, errors, strict=True)]
    producers = [_producers(j, weights, share, spread, totals) for j in range(len(area))]
    return Accuracy(proportions, overall, users, producers, shares)


def _producers(j: int, weights: np.ndarray, share: np.ndarray, spread: np.ndarray, totals: np.ndarray) -> Estimate:
    """Producer's accuracy of class j (eq. 3, 7)."""
    if totals[j] == 0:
        return Estimate(None, None)
    value = weights[j] * share[j, j] / totals[j]
    others = np.delete(weights**2 * spread[:, j], j).sum()
    variance = ((weights[j] * (1 - value)) ** 2 * spread[j, j] + value**2 * others) / totals[j] ** 2
    return Estimate(float(value), float(np.sqrt(variance)))


def sample_size(shares: Sequence[float], users: Sequence[float], error: float) -> int:
    """Units for which the overall accuracy has the standard error `error` (eq. 13, for large areas).

    Args:
        shares: of the mapped classes in the area.
        users: user's accuracies that are expected of them.
        error: standard error asked for, such as 0.01.
    """
    expected = np.asarray(users, float)
    spread = float((np.asarray(shares, float) * np.sqrt(expected * (1 - expected))).sum())
    return max(1, round((spread / error) ** 2))


def allocate(total: int, pixels: Sequence[int], least: int) -> list[int]:
    """Units of each stratum: in proportion to its pixels, but `least` for small ones (their section 5.1.2).

    Never more than a stratum has pixels; a stratum without pixels gets none. Where `total` is less than all the leasts
    together, these win.
    """
    available = np.asarray(pixels, np.int64)
    floor = np.minimum(least, available)
    fixed = available == 0
    units = np.zeros(len(available), np.int64)
    while True:
        rest = max(0, total - int(units[fixed].sum()))
        free = ~fixed
        if not free.any():
            break
        exact = rest * available[free] / available[free].sum()
        low = exact < floor[free]
        if not low.any():
            units[free] = np.minimum(_rounded(exact, rest), available[free])
            break
        small = np.flatnonzero(free)[low]
        units[small], fixed[small] = floor[small], True
    return [int(unit) for unit in units]


def _rounded(exact: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers near `exact` that add up to `total`: the largest remainders are rounded up."""
    whole: np.ndarray = np.floor(exact).astype(np.int64)
    up = np.argsort(-(exact - whole), kind="stable")[: max(0, total - int(whole.sum()))]
    whole[up] += 1
    return whole
