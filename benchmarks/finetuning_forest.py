"""Tree cover of a square kilometre in Romania from twelve timesteps: learned in the west half, judged in the east."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import rasterio
import xarray
from learning import GALILEO, OLMOEARTH, S2, Plan, Subject, data, learn, row

from olmoearth_core.dataset.cubes import Sample, Truth
from olmoearth_core.models.card import TaskCard
from olmoearth_core.models.predictor import Predictor
from olmoearth_core.training.answers import Answer
from olmoearth_core.training.baselines import fit_forest
from olmoearth_core.training.data import Windows, gather
from olmoearth_core.training.predictions import answers_to
from olmoearth_core.training.tally import Tally, tally

BANDS = ("B02", "B03", "B04", "B08", "B8A", "B11")
CLEAR = (2, 4, 5, 6, 7, 11)
"""Classes of SCL that show the ground: dark, vegetation, bare, water, unclassified, snow."""
YEARS = ("2017", "2018", "2019")
CELL, PIECE, WINDOW, STRIDE = 2, 5, 20, 10
"""Pixels of 10 m in a cell of tree cover; cells in a piece, judged as one; pixels of a window, and to the next one."""
FOREST = "random forest"
SCORE = ("r2",)

FAMILIES = (
    tuple(Plan(GALILEO, True, "head_only", "unet", 5, epochs, 3e-3, batch_size=4) for epochs in (60, 200)),
    (Plan(GALILEO, True, "layer_decay", "unet", 5, 40, 2e-3, batch_size=4),),
    (Plan(OLMOEARTH, False, "full", "unet", 5, 120, 2e-3, batch_size=4),),
)
"""What is chosen from, for each encoder, its weights and the recipe; a single one is not chosen but set beforehand."""

Area = tuple[slice, slice]
"""Rows and columns of 10 m pixels."""
EAST = (slice(0, 100), slice(50, 100))
WEST = tuple((slice(top, last), slice(0, 50)) for top, last in ((0, 40), (40, 70), (70, 100)))
"""Three strips, each held out once while plans are chosen."""


def experiment() -> dict[str, Any]:
    """Plans are chosen among the strips of the west half; the east is read once."""
    ground = Ground()
    found, chosen = {FOREST: ground.forest(WEST, EAST)}, {}
    for family in FAMILIES:
        inner = [_inner(ground, plan) for plan in family] if len(family) > 1 else [[]]
        best = family[int(np.argmax([np.mean(scores) for scores in inner]))] if len(family) > 1 else family[0]
        told = {f"{plan.head}, {plan.epochs} epochs": scores for plan, scores in zip(family, inner, strict=True)}
        chosen[best.name] = best.to_json() | {"inner_r2": told}
        print(chosen[best.name], flush=True)
        model, _ = learn(ground.subject, best, ground.windows([(slice(0, 100), slice(0, 50))]))
        found[best.name] = ground.judged(model, EAST)
        print(found[best.name].scores()["r2"], flush=True)
    blocks = ground.blocks(found[FOREST])
    baselines = {FOREST: found[FOREST]}
    return {"rows": [row(name, SCORE, one, blocks, baselines) for name, one in found.items()], "chosen": chosen}


def _inner(ground: Ground, plan: Plan) -> list[float]:
    scores = []
    for strip in WEST:
        model, _ = learn(ground.subject, plan, ground.windows([other for other in WEST if other is not strip]))
        scores.append(float(ground.judged(model, strip).scores()["r2"]))
    return scores


class Ground:
    """The square kilometre: imagery (12, C, 100, 100), where it is clear (12, 100, 100), tree cover (100, 100)."""

    def __init__(self) -> None:
        folder = data() / "romania_forest"
        with rasterio.open(folder / "tree_cover_density_2018.tif") as file:
            self.cover = file.read(1).astype(np.float32).repeat(CELL, 0).repeat(CELL, 1)
        ten, twenty = (
            _months(folder / f"sentinel2_cube_subset_romania_{edge}m.nc", bands)
            for edge, bands in ((10, ("B2", "B3", "B4", "B8")), (20, ("B8A", "B11")))
        )
        twenty = tuple(array.repeat(CELL, -2).repeat(CELL, -1) for array in twenty)
        self.clear = ten[1] & twenty[1]
        self.pixels = np.where(self.clear[:, None], np.concatenate([ten[0], twenty[0]], axis=1), 0).astype(np.uint16)
        self.dates = np.array([f"2018-{month:02d}-15" for month in range(1, 13)], "datetime64[D]")
        task = TaskCard(kind="regression", unit="%", range=(0, 100))
        self.subject = Subject(task, BANDS, len(self.dates))

    def windows(self, areas: Sequence[Area]) -> Windows:
        """Overlapping windows, each wholly in one of the areas."""
        places = [place for area in areas for place in _places(area, WINDOW, STRIDE)]
        return self._gathered([self._sample(*place, WINDOW) for place in places])

    def judged(self, model: Predictor, area: Area) -> Tally:
        """What a model is worth: its windows are blended as in a map, and cells judged, not pixels."""
        total, count = np.zeros(self.cover.shape), np.zeros(self.cover.shape)
        places = _places(area, WINDOW, STRIDE)
        for answer in answers_to("main", model, self.windows([area]), 8):
            for k, estimate in zip(answer.rows.tolist(), answer.scores[:, 0], strict=True):
                top, left = places[k]
                here = (slice(top, top + WINDOW), slice(left, left + WINDOW))
                total[here] += estimate
                count[here] += 1
        estimates = _cells(total / np.maximum(count, 1)).clip(0, 100)
        return tally(self._pieces(estimates, area), self.subject.layout)

    def forest(self, train: Sequence[Area], test: Area) -> Tally:
        """The random forest on cells: it sees all bands of all months of a cell."""
        size = PIECE * CELL

        def read(rows: Sequence[int]) -> list[Sample]:
            return [self._cells_of(self._sample(*places[row], size)) for row in rows]

        here = [place for area in train for place in _places(area, size, size)]
        places, learned = [*here, *_places(test, size, size)], len(here)
        forest = fit_forest(read, range(learned), "main", self.subject.layout)
        assert forest is not None
        estimates = np.zeros((self.cover.shape[0] // CELL, self.cover.shape[1] // CELL), np.float32)
        for answer in forest.answers(read, range(learned, len(places))):
            for k, estimate in zip(answer.rows.tolist(), answer.scores[:, 0], strict=True):
                top, left = places[k][0] // CELL, places[k][1] // CELL
                estimates[top : top + PIECE, left : left + PIECE] = estimate
        return tally(self._pieces(estimates, test), self.subject.layout)

    def blocks(self, found: Tally) -> np.ndarray:
        """(N, 2) blocks of two by two pieces, 200 m, that intervals are drawn from."""
        return np.stack([found.rows % 100 // 2, found.rows // 100 // 2], axis=1)

    def _pieces(self, estimates: np.ndarray, area: Area) -> Iterator[Answer]:
        """Pieces of 5 x 5 cells; their number says where they lie."""
        cover, edge = _cells(self.cover), PIECE * CELL
        for top, left in _places(area, edge, edge):
            here = (slice(top // CELL, top // CELL + PIECE), slice(left // CELL, left // CELL + PIECE))
            number = np.array([top // edge * 100 + left // edge], np.int64)
            values = cover[here].astype(np.float32)[None]
            yield Answer(number, _strata(values), values, estimates[here].astype(np.float32)[None, None])

    def _sample(self, top: int, left: int, size: int) -> Sample:
        here = (..., slice(top, top + size), slice(left, left + size))
        values = self.cover[here]
        truth = Truth(_strata(values), values)
        return Sample({S2: self.pixels[here]}, {S2: self.clear[here]}, self.dates, {"main": truth})

    def _cells_of(self, sample: Sample) -> Sample:
        """The same at 20 m: means of four pixels, clear where all are."""
        pixels, clear, truth = sample.inputs[S2], sample.valid[S2], sample.truths["main"]
        assert truth.values is not None
        coarse = Truth(truth.strata[::CELL, ::CELL], truth.values[::CELL, ::CELL])
        seen = _cells(clear.astype(np.float32)) == 1
        return Sample({S2: np.round(_cells(pixels)).astype(np.uint16)}, {S2: seen}, sample.dates, {"main": coarse})

    def _gathered(self, samples: list[Sample]) -> Windows:
        def read(rows: Sequence[int]) -> list[Sample]:
            return [samples[row] for row in rows]

        rows, strata = range(len(samples)), len(self.subject.layout.strata)
        return gather(read, {"all": rows}, {"main": self.subject.task}, {"main": strata}, at_once=8)["all"]


def _months(path: Any, bands: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Medians of each calendar month's clear pixels over YEARS: (12, C, H, W), and where there are some (12, H, W)."""
    with xarray.open_dataset(path) as cube:
        times = cube["time"].values.astype("datetime64[D]").astype(str)
        here = np.array([day[:4] in YEARS for day in times])
        months = np.array([int(day[5:7]) for day in times])[here]
        clear = np.isin(cube["SCL"].values[here], CLEAR)
        pixels = np.stack([cube[band].values[here] for band in bands], axis=1)
    clear &= (np.nan_to_num(pixels) > 0).all(axis=1)
    medians, seen = [], []
    for month in range(1, 13):
        shown = np.where(clear[months == month][:, None], pixels[months == month], np.nan)
        some = clear[months == month].any(axis=0)
        filled = np.where(some, shown, 0.0) if len(shown) else np.zeros((1, *pixels.shape[1:]))
        medians.append(np.nanmedian(filled, axis=0))
        seen.append(some)
    return np.stack(medians), np.stack(seen)


def _places(area: Area, size: int, stride: int) -> list[tuple[int, int]]:
    """Upper left pixels of squares that lie wholly in an area."""
    rows, columns = area
    return [
        (top, left)
        for top in range(rows.start, rows.stop - size + 1, stride)
        for left in range(columns.start, columns.stop - size + 1, stride)
    ]


def _cells(pixels: np.ndarray) -> np.ndarray:
    """(..., H, W) -> (..., H / 2, W / 2): means."""
    *front, height, width = pixels.shape
    means: np.ndarray = pixels.reshape(*front, height // CELL, CELL, width // CELL, CELL).mean(axis=(-3, -1))
    return means


def _strata(values: np.ndarray) -> np.ndarray:
    return np.clip(values // 20, 0, 4).astype(np.uint8)
