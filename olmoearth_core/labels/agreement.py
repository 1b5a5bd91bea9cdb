"""Whether labels agree with what the imagery shows, file by file: are they shifted, and is a class missing in places?

Two questions, for each label file alone, on composed pixels of a sample of windows:

    shift         Are classes further apart when the labels are moved a few pixels? Measured by the share of the
                  pixels' variance that lies between classes (Pillai's trace over the classes less one, 0 to 1).
                  A shift is believed where it is as good for windows drawn anew from these (a bootstrap): few windows,
                  or one odd shore among many, prove nothing.
    look-alikes   How many pixels labelled `b` are more like class `a` than half of the pixels of `a` themselves are,
                  and more likely `a` than `b`? Classes are Gaussians with equal priors, fitted on other blocks of
                  ground than those they judge. Of a class that was outlined whole there are next to none; where a
                  third was outlined and the rest given to `b`, there are many. A class that the imagery cannot tell
                  from `b` has many too, but then is not recognised itself: that is told apart. And where no window
                  has labels of both (patches with a class each), nobody drew a line between them that could be wrong.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Any

import numpy as np

FOLDS = 4
BLOCK = 32
"""Edge in pixels of the squares of ground that are learned from or judged as a whole."""
COMPONENTS = 12
"""Principal components that stand for a pixel's bands and timesteps."""
RIDGE = 0.02
"""Share of the identity in a class's covariance (components have unit variance)."""
MIN_PIXELS = 200
"""Fewest labelled pixels of a class to say anything about it."""
MAX_SHIFT = 8
"""Pixels that labels are moved, at most a quarter of a window."""
MIN_SHIFT = 1.5
"""Pixels: half a pixel is how outlines are rounded, one is how scenes are registered."""
SHIFT_GAIN = 0.1
"""Least share of what separates the classes from perfect separation that a shift must win back."""
RESAMPLES, SURE = 400, 0.95
"""Times that windows are drawn anew, and the share of these draws in which a shift must win that much."""
SEPARABLE = 0.1
"""Least separability at the best shift to believe it."""
RECOGNISED = 0.8
"""Least share of the pixels of the class in question that are told from the other one, to call the two different."""
RECOGNISED_REST = 0.5
"""The same for the other class, which has the look-alikes in it."""
SHIFT_PIXELS = 60_000
"""Pixels at which shifts are compared; of more, every second, third, ... row and column is looked at."""
ONE_WAY = 4.0
"""How many times more look-alikes one way than the other: classes that resemble each other do so both ways."""
LOOK_ALIKES = 0.2
"""Look-alikes per pixel of the class from which on labels of it are likely to be missing."""


@dataclass(frozen=True)
class Samples:
    """Labelled windows of one file.

    Attributes:
        pixels: (N, H, W, F) float, what the imagery shows of each pixel.
        seen: (N, H, W) bool, whether it shows anything.
        target: (N, H, W) uint8, position in classes, IGNORE where not labelled by this file.
        corners: (N, 2) int64, row and column of each window's upper left pixel.
    """

    pixels: np.ndarray
    seen: np.ndarray
    target: np.ndarray
    corners: np.ndarray


@dataclass(frozen=True)
class LookAlikes:
    """Pixels labelled one class that look like another.

    Attributes:
        labelled, like: names of the classes.
        share: how many, per pixel labelled `like`.
        reverse: the same of pixels labelled `like` that look like `labelled`.
        recognised: share of the pixels labelled `like` that are told from `labelled`.
        recognised_rest: share of the pixels labelled `labelled` that are told from `like`.
        pixels: how many.
        near: share of them that lie within MAX_SHIFT pixels of one labelled `like`.
        side_by_side: whether there are windows with labels of both, enough to judge by.
        windows: positions of the windows with the most of them, at most five.
    """

    labelled: str
    like: str
    share: float
    reverse: float
    recognised: float
    recognised_rest: float
    pixels: int
    near: float
    side_by_side: bool
    windows: tuple[int, ...]

    @property
    def suspicious(self) -> bool:
        """Whether labels are likely to be missing: many, of classes that the imagery can tell apart."""
        many, one_way = self.share > LOOK_ALIKES, self.share >= ONE_WAY * self.reverse
        different = self.recognised >= RECOGNISED and self.recognised_rest >= RECOGNISED_REST
        return self.side_by_side and many and one_way and different


@dataclass(frozen=True)
class Agreement:
    """How labels agree with the imagery.

    Attributes:
        separability: 0 to 1, share of variance between classes; None where there is too little to say.
        shift: (rows, columns) in pixels by which labels agree best when moved; (0, 0) where nothing is gained.
        shifted_separability: at that shift.
        look_alikes: of each pair of classes that has any, the most first.
    """

    separability: float | None
    shift: tuple[int, int]
    shifted_separability: float | None
    look_alikes: tuple[LookAlikes, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def agreement(samples: Samples, classes: tuple[str, ...]) -> Agreement:
    """Measure how labels of one file agree with the imagery."""
    known = samples.seen & (samples.target < len(classes))
    counts = np.bincount(samples.target[known], minlength=len(classes))
    enough = np.flatnonzero(counts >= MIN_PIXELS)
    if len(enough) < 2:
        return Agreement(None, (0, 0), None, ())
    if not (samples.pixels[known].astype(np.float64).std(axis=0) > STILL).any():
        return Agreement(None, (0, 0), None, ())  # imagery that is the same everywhere tells nothing
    components = _components(samples.pixels, known)
    still, shift, moved = _best_shift(components, samples)
    return Agreement(
        separability=round(still, 4),
        shift=shift,
        shifted_separability=round(moved, 4),
        look_alikes=_look_alikes(components, samples, known, enough, classes),
    )


STILL = 1e-9
"""Spread below which a band does not vary."""


def _components(pixels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(N, H, W, C) float64, principal components of the known pixels, each with unit variance."""
    flat = pixels[known].astype(np.float64)
    mean, spread = flat.mean(axis=0), flat.std(axis=0)
    varies = spread > STILL
    values, vectors = np.linalg.eigh(
        np.cov(((flat - mean) / np.where(varies, spread, 1))[:, varies].T).reshape(varies.sum(), -1)
    )
    kept = np.flatnonzero(values > 1e-6 * values.max())[::-1][:COMPONENTS]
    turn = vectors[:, kept] / np.sqrt(values[kept]) / spread[varies][:, None]
    return np.asarray((pixels[..., varies] - mean[varies]) @ turn)


def _best_shift(components: np.ndarray, samples: Samples) -> tuple[float, tuple[int, int], float]:
    """(separability as it is, best shift, separability there)."""
    height, width = samples.target.shape[1:]
    reach = min(MAX_SHIFT, height // 4, width // 4)

    step = max(1, round((len(samples.target) * (height - 2 * reach) * (width - 2 * reach) / SHIFT_PIXELS) ** 0.5))

    def parts(row: int, column: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        inner = np.s_[:, reach : height - reach : step, reach : width - reach : step]
        moved = np.s_[:, reach - row : height - reach - row : step, reach - column : width - reach - column : step]
        return components[inner], samples.seen[inner], samples.target[moved]

    def at(row: int, column: int) -> float:
        return _separability(*parts(row, column))

    still = at(0, 0)
    coarse = range(-reach + reach % 2, reach + 1, 2)
    first = max((at(r, c), -abs(r) - abs(c), r, c) for r in coarse for c in coarse)
    near = [(r, c) for r in range(first[2] - 1, first[2] + 2) for c in range(first[3] - 1, first[3] + 2)]
    best = max((at(r, c), -abs(r) - abs(c), r, c) for r, c in near if max(abs(r), abs(c)) <= reach)
    shift = (best[2], best[3])
    if np.hypot(*shift) < MIN_SHIFT or best[0] < SEPARABLE or _sure_gain(parts(0, 0), parts(*shift)) < SHIFT_GAIN:
        return still, (0, 0), still
    return still, shift, best[0]


_Parts = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Components (N, H, W, C), seen and target (N, H, W)."""


def _sure_gain(still: _Parts, moved: _Parts) -> float:
    """The share of what was missing to perfect separation that is won in SURE of all draws of as many windows."""
    sums = [_sums(*parts) for parts in (still, moved)]
    windows = len(still[0])
    draws = np.random.default_rng(0).multinomial(windows, np.full(windows, 1 / windows), RESAMPLES)
    gains = []
    for draw in draws:
        before, after = (_pillai(*(np.tensordot(draw, part, 1) for part in of)) for of in sums)
        gains.append((after - before) / max(1 - before, 1e-9))
    return float(np.quantile(gains, 1 - SURE))


def _separability(components: np.ndarray, seen: np.ndarray, target: np.ndarray) -> float:
    """Pillai's trace over the classes less one: 0 where classes share their mean, 1 where they share nothing else."""
    known = seen & (target != 255)
    return _pillai(*_class_sums(components[known], target[known], int(target[known].max(initial=0)) + 1))


def _sums(components: np.ndarray, seen: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`_class_sums` of each window: (N, K), (N, K, C), (N, C, C)."""
    known = seen & (target != 255)
    classes = int(target[known].max(initial=0)) + 1
    each = [_class_sums(c[k], t[k], classes) for c, k, t in zip(components, known, target, strict=True)]
    counts, sums, squares = (np.stack(part) for part in zip(*each, strict=True))
    return counts, sums, squares


def _class_sums(values: np.ndarray, target: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels (K,) and sums of values (K, C) of each class, and sum of squares (C, C): they add up over windows."""
    counts = np.bincount(target, minlength=classes).astype(np.float64)
    return counts, np.eye(classes)[target].T @ values, values.T @ values


def _pillai(counts: np.ndarray, sums: np.ndarray, squares: np.ndarray) -> float:
    present = counts > 0
    if present.sum() < 2:
        return 0.0
    counts, sums = counts[present], sums[present]
    amount, mean = counts.sum(), sums.sum(axis=0) / counts.sum()
    total = squares / amount - np.outer(mean, mean) + 1e-6 * np.eye(len(mean))
    off = sums / counts[:, None] - mean
    between = (off * counts[:, None]).T @ off / amount
    return float(np.trace(np.linalg.solve(total, between)) / min(len(counts) - 1, len(mean)))


def _look_alikes(
    components: np.ndarray, samples: Samples, known: np.ndarray, enough: np.ndarray, classes: tuple[str, ...]
) -> tuple[LookAlikes, ...]:
    window, row, column = np.nonzero(known)
    values, target = components[known], samples.target[known]
    rows, columns = row + samples.corners[window, 0], column + samples.corners[window, 1]
    fold = (rows // BLOCK * 7919 + columns // BLOCK * 104_729) % FOLDS
    distance, likelihood = _judged(values, target, fold, enough)
    twins = {
        (labelled, like): (target == labelled)
        & (likelihood[:, i] > likelihood[:, j])
        & (distance[:, i] <= np.nanmedian(distance[target == like, i]))
        for (i, like), (j, labelled) in permutations(enumerate(enough.tolist()), 2)
        if np.isfinite(distance[target == like, i]).any()
    }
    share = {(b, a): float(found.sum() / ((target == a).sum() / 2)) for (b, a), found in twins.items()}
    position = {index: k for k, index in enumerate(enough.tolist())}
    has = {index: np.bincount(window[target == index], minlength=len(samples.target)) for index in enough.tolist()}
    found = []
    for (labelled, like), pixels in twins.items():
        if not pixels.any():
            continue
        closer = likelihood[:, position[like]] > likelihood[:, position[labelled]]
        most = np.bincount(window[pixels], minlength=len(samples.target))
        worst = np.argsort(-most, kind="stable")[:5]
        both = (has[labelled] > 0) & (has[like] > 0)
        around = _around(samples.target == like)[known]
        found.append(
            LookAlikes(
                labelled=classes[labelled],
                like=classes[like],
                share=round(share[labelled, like], 4),
                reverse=round(share.get((like, labelled), 0.0), 4),
                recognised=round(float(closer[target == like].mean()), 4),
                recognised_rest=round(float(1 - closer[target == labelled].mean()), 4),
                pixels=int(pixels.sum()),
                near=round(float(around[pixels].mean()), 4),
                side_by_side=bool(min(has[labelled][both].sum(), has[like][both].sum()) >= MIN_PIXELS),
                windows=tuple(worst[most[worst] > 0].tolist()),
            )
        )
    return tuple(sorted(found, key=lambda pair: (-pair.share, pair.labelled, pair.like)))


def _around(mask: np.ndarray) -> np.ndarray:
    """(N, H, W) bool: pixels of a window within MAX_SHIFT pixels of one in `mask` (N, H, W)."""
    from scipy.ndimage import distance_transform_edt

    reached = [distance_transform_edt(~one) <= MAX_SHIFT if one.any() else one for one in mask]
    return np.stack(reached)


def _judged(
    values: np.ndarray, target: np.ndarray, fold: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(squared Mahalanobis distance, log likelihood) of each pixel for each class, both (P, K), by the other folds."""
    distance = np.full((len(values), len(classes)), np.nan)
    likelihood = np.full((len(values), len(classes)), -np.inf)
    for held in range(FOLDS):
        judged = fold == held
        for k, index in enumerate(classes):
            own = values[~judged & (target == index)]
            if len(own) < MIN_PIXELS // 4:
                continue
            spread = np.cov(own.T).reshape(values.shape[1], -1) * (1 - RIDGE) + RIDGE * np.eye(values.shape[1])
            off = values[judged] - own.mean(axis=0)
            distance[judged, k] = (off * np.linalg.solve(spread, off.T).T).sum(axis=1)
            likelihood[judged, k] = -distance[judged, k] / 2 - np.linalg.slogdet(spread)[1] / 2
    return distance, likelihood
