"""The windows in report.html: the worst ones, and those behind each cell of the confusion matrix, as pictures."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from olmoearth_core.dataset.dataset import Dataset
from olmoearth_core.training.answers import Read
from olmoearth_core.training.figures import image, worst_figure
from olmoearth_core.training.gallery import BEHIND, UNSEEN, WORST, Look, behind, pictures, strip, worst
from olmoearth_core.training.tally import ClassTally

if TYPE_CHECKING:
    from olmoearth_core.training.judge import Judged


class ShownWindows:
    """The windows of one task and split that are worth looking at.

    Args:
        dataset: whose windows they are.
        judged: what was said of them; at least one.
        colours: (256, 3) uint8, of classes; of a regression, of 255 levels over the range.
        read: gives samples by rows of the window table.
        share: one in so many of the pictures that a page may hold.
        suffix: what follows the names of this task's files and anchors.
    """

    def __init__(
        self, dataset: Dataset, judged: Judged, colours: np.ndarray, read: Read, *, share: int = 1, suffix: str = ""
    ) -> None:
        self.dataset = dataset
        self.task, self.tally, self.split, self.looks = judged.task, judged.tally, judged.split, judged.gallery.looks
        self.colours, self.suffix = colours, suffix
        self.worst = worst(self.tally, max(3, WORST // share))
        self.cells = behind(self.tally, BEHIND // share) if isinstance(self.tally, ClassTally) else {}
        rows = sorted({*self.worst, *(row for cell in self.cells.values() for row in cell)})
        seen = pictures(read, rows, dataset.bands)
        self.strips = {row: strip(seen[row], self._levels(self.looks[row]), colours) for row in rows}
        self.captions = dict(zip(rows, _captions(dataset, rows), strict=True))

    @property
    def unit(self) -> str:
        """What is counted."""
        return "windows" if self.task.kind == "classification" else "pixels"

    def worst_section(self) -> str:
        """HTML: the worst windows, and how much of the loss each makes."""
        shares = self._shares()
        cards = "".join(self._card(row, shares[row]) for row in self.worst)
        return f'<p class="soft">{self._heading()}.</p>{self._legend()}<div class="gallery">{cards}</div>'

    def worst_picture(self) -> bytes:
        """The same as a PNG."""
        shares = self._shares()
        classes = [self._said(row, "\n") for row in self.worst]  # a line each: long names would run into each other
        texts = [f"\n{said or shares[row]}" for row, said in zip(self.worst, classes, strict=True)]
        captions = [f"{self.captions[row][0]}{text}" for row, text in zip(self.worst, texts, strict=True)]
        strips = [self.strips[row] for row in self.worst]
        _, bottom, _, top = self.dataset.windows.geometry.iloc[self.worst[0]].bounds
        heading = f"The worst {self._heading()}"
        return worst_figure(strips, captions, heading, metres=top - bottom, legend=self._meanings())

    def behind_sections(self) -> Iterator[str]:
        """HTML: the windows behind each cell of the confusion matrix, under the anchor that its number leads to."""
        assert isinstance(self.tally, ClassTally)
        yield f'<p class="soft">Those with most such {self.unit}; {self._heading()}.</p>{self._legend()}'
        place = {row: k for k, row in enumerate(self.tally.rows.tolist())}
        for (truth, said), rows in self.cells.items():
            names = escape(self.task.strata[truth]), escape(self.task.strata[said])
            title = f"{names[0]}, rightly" if truth == said else f"{names[0]} taken for {names[1]}"
            cards = []
            for row in rows:
                count = f"{int(self.tally.confusion[place[row], truth, said]):,} {self.unit}"
                cards.append(self._card(row, count if self.unit == "pixels" else ""))
            yield f'<h3 id="{self.anchor(truth, said)}">{title}</h3><div class="gallery">{"".join(cards)}</div>'

    def anchor(self, truth: int, said: int) -> str:
        """Where the windows behind a cell are on the page."""
        return f"cell{self.suffix}-{truth}-{said}"

    def _shares(self) -> dict[int, str]:
        what = "squared error" if self.task.kind == "regression" else "loss"
        loss = dict(zip(self.tally.rows.tolist(), self.tally.loss.tolist(), strict=True))
        total = max(sum(loss.values()), 1e-12)
        return {row: f"{100 * loss[row] / total:.1f} % of the whole {what}" for row in self.worst}

    def _heading(self) -> str:
        alone = f"{self.split} windows as the satellite saw them"
        return alone if self.task.kind == "classification" else f"{alone}, as labelled, as predicted"

    def _legend(self) -> str:
        if self.task.kind == "classification":
            return ""
        blank = ((255, "not labelled"), (UNSEEN, "not seen"))
        white = "&ensp;".join(f"{swatch(np.full(3, grey))}{name}" for grey, name in blank)
        if self.task.kind == "regression":
            assert self.task.range is not None
            stops = ", ".join(hexadecimal(self.colours[k]) for k in range(0, 255, 42))
            ramp = f'<span class="ramp" style="background:linear-gradient(90deg, {stops})"></span>'
            return f"<p>{self.task.range[0]:g} {ramp} {self.task.range[1]:g} {escape(self.task.unit)}&ensp;{white}</p>"
        names = (f"{swatch(self.colours[k])}{escape(name)}" for k, name in enumerate(self.task.strata))
        return f"<p>{'&ensp;'.join(names)}&ensp;{white}</p>"

    def _meanings(self) -> list[tuple[str, str]]:
        """("#rrggbb", what it means) of the colours that the worst windows show; of a regression some of its levels."""
        if self.task.kind == "classification":
            return []
        blank = [(hexadecimal(np.full(3, grey)), name) for grey, name in ((255, "not labelled"), (UNSEEN, "not seen"))]
        if self.task.range is not None:
            low, high = self.task.range
            steps = [low + (high - low) * k / 4 for k in range(5)]
            unit = f" {self.task.unit}" if self.task.unit else ""
            return [(hexadecimal(self.colours[round(63.5 * k)]), f"{v:g}{unit}") for k, v in enumerate(steps)] + blank
        looks = [self.looks[row] for row in self.worst]
        shown = np.unique(np.concatenate([part.ravel() for look in looks for part in (look.truth, look.said)]))
        names = self.task.strata
        return [(hexadecimal(self.colours[k]), names[k]) for k in shown.tolist() if k < len(names)] + blank

    def _card(self, row: int, text: str) -> str:
        name, when, where = self.captions[row]
        lines = [line for line in (f"{when}, {where}", self._said(row), text) if line]
        picture = embedded(image(self.strips[row]), f"window {name}")
        caption = f"<b>{escape(name)}</b><br>{'<br>'.join(map(escape, lines))}"
        return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"

    def _said(self, row: int, between: str = ", ") -> str:
        """Of a window that has one class: which it is, and which was predicted."""
        if self.task.kind != "classification":
            return ""
        look, names = self.looks[row], self.task.strata
        return f"labelled {names[int(look.truth[0, 0])]}{between}predicted {names[int(look.said[0, 0])]}"

    def _levels(self, look: Look) -> Look:
        """Values as levels from 0 to 254 over the task's range, 255 for none; classes as they are."""
        if self.task.kind != "regression":
            return look
        assert self.task.range is not None
        low, high = self.task.range

        def levels(values: np.ndarray) -> np.ndarray:
            share = np.clip((np.nan_to_num(values) - low) / (high - low), 0, 1)
            return np.where(np.isfinite(values), share * 254, 255).astype(np.uint8)

        return Look(levels(look.truth), levels(look.said))


def _captions(dataset: Dataset, rows: Sequence[int]) -> list[tuple[str, str, str]]:
    """(name, date, place in degrees) of windows."""
    windows = dataset.windows.iloc[list(rows)]
    centres = windows.geometry.centroid.to_crs("EPSG:4326")
    return [
        (str(name), str(date)[:10], _degrees(point.x, point.y))
        for name, date, point in zip(windows["name"], windows["date"], centres, strict=True)
    ]


def _degrees(x: float, y: float) -> str:
    return f"{abs(y):.4f}° {'N' if y >= 0 else 'S'}, {abs(x):.4f}° {'E' if x >= 0 else 'W'}"


def hexadecimal(colour: np.ndarray) -> str:
    """ "#rrggbb" of (3,) uint8."""
    return "#{:02x}{:02x}{:02x}".format(*colour.tolist())


def swatch(colour: np.ndarray) -> str:
    """HTML: a small square of a colour (3,) uint8."""
    return f'<span class="swatch" style="background:{hexadecimal(colour)}"></span>'


def embedded(content: bytes, what: str) -> str:
    """HTML: a PNG inside the page."""
    return f'<img alt="{escape(what)}" src="data:image/png;base64,{base64.b64encode(content).decode()}">'
