"""The windows worth looking at: those a model is worst at, and those behind the cells of its confusion matrix.

What a model said is kept as small pictures while answers stream by, and only of windows that may still be among the
chosen ones, so that memory does not grow with the training set. Nobody is asked twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from olmoearth_core.labels.windows import IGNORE
from olmoearth_core.training.answers import Answer, Read
from olmoearth_core.training.tally import ClassTally, Counter, Tally

WORST = 12
"""Worst windows shown."""
BEHIND = 96
"""Windows shown behind the cells of a confusion matrix, all cells together."""
MOST_OF_A_CELL = 6
EDGE = 80
"""Longest edge of a picture in pixels; larger windows are thinned to it."""
LEAST_EDGE = 64
"""Shortest edge of a picture on the page; smaller windows are enlarged to about it."""
UNSEEN = 200
"""Grey of what nothing was seen of."""
GAP = 3
"""White columns between pictures."""
KEPT = 512
"""Windows kept before the first look at which of them can go."""

PICTURES: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "sentinel2_l2a": (("B04", "B03", "B02"), ("B08", "B04", "B03"), ("B11", "B08", "B04")),
    "landsat": (("B4", "B3", "B2"), ("B5", "B4", "B3")),
    "sentinel1": (("vv", "vh", "vv"),),
}
"""Modality -> bands that make a picture (red, green, blue), the first that a training set has."""


@dataclass(frozen=True)
class Look:
    """One window as it is labelled and as it was answered.

    Attributes:
        truth: (h, w) uint8 classes with IGNORE, or float32 values with NaN.
        said: (h, w) uint8 classes or float32 estimates.
    """

    truth: np.ndarray
    said: np.ndarray


@dataclass(frozen=True)
class Picture:
    """What one window looks like.

    Attributes:
        colour: (h, w, 3) uint8, grey where its timestep shows nothing.
        seen: (h, w) bool, where any timestep of any modality shows something: elsewhere an answer is a guess.
    """

    colour: np.ndarray
    seen: np.ndarray


class Gallery:
    """Keeps looks of the windows that `worst` and `behind` may choose.

    Args:
        counter: judges the same answers; told of them first.
    """

    def __init__(self, counter: Counter) -> None:
        self._counter, self._limit = counter, KEPT
        self.looks: dict[int, Look] = {}

    def add(self, answer: Answer) -> None:
        """Keep what `answer` says, and let go of what is no longer among the chosen."""
        step = -(-max(answer.strata.shape[1:]) // EDGE)
        for k in np.flatnonzero(answer.labelled.any(axis=(1, 2))).tolist():
            is_value = answer.values is not None
            truth = answer.strata[k] if answer.values is None else answer.values[k]
            said = answer.scores[k, 0] if is_value else answer.scores[k].argmax(axis=0).astype(np.uint8)
            look = Look(truth[::step, ::step].copy(), said[::step, ::step].copy())
            self.looks[int(answer.rows[k])] = look
        if len(self.looks) > self._limit:
            self.looks = {row: self.looks[row] for row in sorted(_chosen(self._counter.tally()))}
            self._limit = max(KEPT, 2 * len(self.looks))


def worst(judged: Tally, most: int = WORST) -> list[int]:
    """Rows of the windows that add most to the loss, the worst first."""
    order = np.lexsort((judged.rows, -judged.loss))
    return [int(row) for row in judged.rows[order[:most]]]


def behind(judged: ClassTally, most: int | None = BEHIND) -> dict[tuple[int, int], list[int]]:
    """(truth, prediction) -> rows of the windows with most such pixels, for the cells that hold any.

    With many classes each cell gets one window, the errors with most pixels first, until `most` are named
    (None: all).
    """
    total = judged.confusion.sum(axis=0)
    cells = [(int(t), int(p)) for t, p in np.argwhere(total)]
    each = _each(len(judged.task.strata))
    found: dict[tuple[int, int], list[int]] = {}
    left = len(cells) * each if most is None else most
    for cell in sorted(cells, key=lambda c: (c[0] == c[1], -total[c], c)):
        count = judged.confusion[:, cell[0], cell[1]]
        order = np.lexsort((judged.rows, -judged.loss, -count))[: min(each, left)]
        if rows := [int(judged.rows[k]) for k in order if count[k]]:
            found[cell] = rows
            left -= len(rows)
    return dict(sorted(found.items()))


def _each(classes: int) -> int:
    return max(1, min(MOST_OF_A_CELL, BEHIND // classes**2))


def _chosen(judged: Tally) -> set[int]:
    """Rows that may be chosen when more windows have come: the best of a part hold the best of the whole."""
    rows = set(worst(judged))
    if isinstance(judged, ClassTally):
        rows |= {row for cell in behind(judged, most=None).values() for row in cell}
    return rows


def pictures(read: Read, rows: Sequence[int], bands: Mapping[str, Sequence[str]]) -> dict[int, Picture]:
    """Row -> what a window looks like at the timestep that shows most of them.

    One stretch for all of them (2nd to 98th percentile of each band), so that dark is dark; grey where nothing is seen.

    Args:
        read: gives the samples in rows of the dataset's window table.
        rows: which.
        bands: modality -> names, as in the dataset.
    """
    modality, at = _picture_bands(bands)
    cut, seen, ever = {}, {}, {}
    for row in rows:
        sample = read([row])[0]
        valid = sample.valid[modality]
        step = int(valid.sum(axis=(1, 2)).argmax())
        thin = -(-max(valid.shape[1:]) // EDGE)
        cut[row] = sample.inputs[modality][step, at][:, ::thin, ::thin].astype(np.float32)
        seen[row] = valid[step, ::thin, ::thin]
        ever[row] = np.any([of.any(axis=0) for of in sample.valid.values()], axis=0)[::thin, ::thin]
    shown = [cut[row][:, seen[row]] for row in rows if seen[row].any()]
    low, high = np.percentile(np.concatenate(shown, axis=1), [2, 98], axis=1) if shown else (np.zeros(3), np.ones(3))
    found = {}
    for row in rows:
        level = (cut[row] - low[:, None, None]) / np.maximum(high - low, 1e-6)[:, None, None]
        colour = np.moveaxis(255 * np.clip(level, 0, 1) ** 0.8, 0, -1)
        shade = np.where(seen[row][..., None], colour, UNSEEN).round().astype(np.uint8)
        found[row] = Picture(shade, ever[row])
    return found


def _picture_bands(bands: Mapping[str, Sequence[str]]) -> tuple[str, list[int]]:
    """(modality, positions of red, green and blue) of the first modality that makes a usual picture."""
    for modality, choices in PICTURES.items():
        for choice in choices:
            if modality in bands and set(choice) <= set(bands[modality]):
                return modality, [list(bands[modality]).index(band) for band in choice]
    modality = next(iter(bands))
    return modality, [min(k, len(bands[modality]) - 1) for k in range(3)]


def strip(picture: Picture, look: Look | None, colours: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8: the picture, and beside it what is labelled and what was said.

    White where nothing is labelled; what was said is grey where nothing was seen: nobody maps or judges that.

    Small windows are enlarged, each pixel to a square.

    Args:
        picture: of the window.
        look: (h, w) each; None, or of a whole window (1, 1): the picture alone.
        colours: (256, 3) uint8, of classes, or of values from the least to the largest (`look` holds 0 to 255 then).
    """
    panels = [picture.colour]
    if look is not None and look.truth.shape == picture.seen.shape:
        truth = colours[look.truth]
        truth[look.truth == IGNORE] = 255
        said = colours[look.said]
        said[~picture.seen] = UNSEEN
        panels += [truth, said]
    factor = max(1, LEAST_EDGE // max(picture.seen.shape))
    panels = [panel.repeat(factor, axis=0).repeat(factor, axis=1) for panel in panels]
    gap = np.full((len(panels[0]), GAP, 3), 255, np.uint8)
    return np.concatenate([part for panel in panels for part in (panel, gap)][:-1], axis=1)
