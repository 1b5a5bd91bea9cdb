"""How far two samples lie apart: of one number by PSI and KS, of embeddings by the distance of their means."""

from __future__ import annotations

import numpy as np

from olmoearth_core.dataset.drift import stability_index

TENTHS = np.arange(0.1, 1, 0.1)


def psi(old: np.ndarray, new: np.ndarray) -> float:
    """The population stability index of two samples (N,), (M,): the bins are the tenths of the old one."""
    edges = np.unique(np.quantile(old, TENTHS))
    shares = [np.bincount(np.searchsorted(edges, s, "right"), minlength=len(edges) + 1) / len(s) for s in (old, new)]
    return stability_index(shares[0].tolist(), shares[1].tolist())


def ks(old: np.ndarray, new: np.ndarray) -> float:
    """The Kolmogorov-Smirnov distance of two samples (N,), (M,): the largest gap of their distributions, 0 to 1."""
    old, new = np.sort(old), np.sort(new)
    values = np.concatenate([old, new])
    gaps = np.searchsorted(old, values, "right") / len(old) - np.searchsorted(new, values, "right") / len(new)
    return float(np.abs(gaps).max())


def mean_distance(old: np.ndarray, new: np.ndarray) -> float:
    """Distance of the means of two sets of embeddings (N, D), (M, D), in spreads of the old set.

    The spread is the root of the summed variances; what samples of these sizes differ by without any shift is taken
    off, so that few windows are no drift.
    """
    variance = float(old.var(axis=0, ddof=1).sum())
    if variance == 0:
        return 0.0
    squared = float(((old.mean(axis=0) - new.mean(axis=0)) ** 2).sum())
    by_chance = variance / len(old) + float(new.var(axis=0, ddof=1).sum()) / len(new)
    return float(np.sqrt(max(0.0, squared - by_chance) / variance))
