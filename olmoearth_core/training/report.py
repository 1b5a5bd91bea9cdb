"""report.html: one self-contained page that tells a partner how good a model is, where it fails, and what to doubt.

Nothing is loaded from anywhere, and nothing in it changes from run to run. Its figures lie beside it as PNGs as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from olmoearth_core.dataset.dataset import Dataset
from olmoearth_core.dataset.html import table
from olmoearth_core.models.score_text import (
    NAMES,
    OVERALL,
    PARTS,
    difference_text,
    named,
    shown,
    with_interval,
)
from olmoearth_core.store import write_bytes, write_text
from olmoearth_core.training.answers import Read
from olmoearth_core.training.figures import confusion_figure, reliability_figure, scatter_figure
from olmoearth_core.training.report_style import STYLE
from olmoearth_core.training.report_windows import ShownWindows, embedded, swatch
from olmoearth_core.training.tally import ClassTally, ValueTally

if TYPE_CHECKING:
    from olmoearth_core.training.judge import Judged

REPORT = "report.html"
USUAL = ("#1b7f79", "#c98b2b", "#7b5ea7", "#b23a48", "#4c78a8", "#8a9a3b", "#8c5a3c", "#5d6b7a")
"""Colours of classes where a task names none."""


def write_report(
    out: Path,
    dataset: Dataset,
    judged: Mapping[str, Sequence[Judged]],
    metrics: Mapping[str, dict[str, Any]],
    colours: Mapping[str, Sequence[str]],
    read: Read,
) -> None:
    """Write the page and its figures to the folder `out`, each whole or not at all.

    The test is shown in pictures; validation where there is no test.

    Args:
        out: the folder.
        dataset: whose windows were judged.
        judged: task -> what was found in validation and test; the main task first.
        metrics: task -> scores, as `judge` gives them.
        colours: task -> "#rrggbb" of each class.
        read: gives samples by rows of the window table.
    """
    parts = []
    for place, (name, splits) in enumerate(judged.items()):
        heading = f"{name}: " if len(judged) > 1 else ""
        suffix = f"_{name}" if place else ""
        found = [one for one in splits if len(one.tally.rows)]
        if not found:
            parts.append(_section(f"{heading}not judged", "<p>Neither validation nor test holds a labelled pixel.</p>"))
            continue
        palette = _palette(colours.get(name) or _usual(len(found[-1].task.strata)), found[-1].task.kind)
        windows = ShownWindows(dataset, found[-1], palette, read, share=len(judged), suffix=suffix)
        page = _Task(out, found, metrics[name], windows, palette, suffix)
        parts += [_section(f"{heading}{title}", content) for title, content in page.sections()]
    write_text(
        out / REPORT,
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>How good the model is</title><style>{STYLE}</style></head>"
        f"<body><main><header><h1>How good the model is</h1></header>{''.join(parts)}</main></body></html>\n",
    )


class _Task:
    """What the page says of one task."""

    def __init__(
        self,
        out: Path,
        splits: Sequence[Judged],
        metrics: dict[str, Any],
        windows: ShownWindows,
        palette: np.ndarray,
        suffix: str,
    ) -> None:
        self.out, self.splits, self.metrics, self.windows = out, splits, metrics, windows
        self.palette, self.suffix = palette, suffix
        self.task, self.tally, self.split = splits[-1].task, splits[-1].tally, splits[-1].split
        self.scores: dict[str, Any] = metrics[self.split]
        self.baseline: dict[str, Any] | None = self.scores["baseline"]
        self.unit = windows.unit

    def sections(self) -> Iterator[tuple[str, str]]:
        """(title, HTML), one after the other."""
        yield "in one sentence", self._verdict()
        yield "scores", self._overall() + self._parts() + self._notes()
        if isinstance(self.tally, ClassTally):
            yield "what is taken for what", self._confusion(self.tally)
            yield "how sure it is, and how right", self._reliability()
        if isinstance(self.tally, ValueTally):
            yield "estimates and measurements", self._scatter(self.tally)
        yield "the worst windows", self.windows.worst_section()
        write_bytes(self.out / f"worst{self.suffix}.png", self.windows.worst_picture())
        if self.windows.cells:
            yield "windows behind the confusion matrix", "".join(self.windows.behind_sections())

    def _verdict(self) -> str:
        key = self.metrics["headline"]
        name = NAMES[key][:1].upper() + NAMES[key][1:]
        lines = [f'<p class="verdict">{name} on the {self.split} windows: <b>{with_interval(self.scores, key)}</b></p>']
        if self.baseline:
            state = {"better": "good", "worse": "error"}.get(self.baseline["verdict"], "warning")
            lines.append(f'<p class="{state}">{escape(self.baseline["sentence"])}</p>')
        else:
            lines.append('<p class="soft">There is no random forest to compare with: too little to learn from.</p>')
        if self.split == "validation":
            lines.append("<p>There are no test windows: epochs were chosen by these, so the scores flatter.</p>")
        return "".join(lines)

    def _overall(self) -> str:
        keys = OVERALL[self.task.kind]
        head = ["Score", *(one.split for one in self.splits)]
        columns = [[with_interval(self.metrics[one.split], key) for key in keys] for one in self.splits]
        if self.baseline:
            head += [f"random forest, {self.split}", "difference"]
            columns.append([shown(key, self.baseline["scores"][key]) for key in keys])
            columns.append([difference_text(self.baseline["difference"], key) for key in keys])
        names = [escape(named(key, self.task.unit)) for key in keys]
        return table(head, zip(names, *columns, strict=True), frozenset(range(1, len(head))))

    def _parts(self) -> str:
        """Scores by class, or by part of the range."""
        section, keys = PARTS[self.task.kind]
        compared = "rmse" if section == "strata" else "iou"
        head = [f"{'Range' if section == 'strata' else 'Class'}, {self.split}"]
        head += [*(named(key, self.task.unit) for key in keys), self.unit, "blocks"]
        rows = []
        for name, values in self.scores[section].items():
            cells = [_two_lines(with_interval(self.scores, section, name, key)) for key in keys]
            rows.append([escape(name), *cells, f"{values['pixels']:,}", str(self.scores["blocks_with"][name])])
            if self.baseline:
                text = difference_text(self.baseline["difference"], section, name, compared)
                rows[-1].append(_two_lines(text))
        if self.baseline:
            head.append(f"{NAMES[compared]}, model less forest")
        return table([escape(cell) for cell in head], rows, frozenset(range(1, len(head))))

    def _notes(self) -> str:
        notes = [
            f"In brackets: 95 % intervals, by drawing the {self.scores['blocks']} blocks of ground anew. They tell how "
            "far a score would move on other ground like this, and nothing of other places, seasons or labels.",
            self.scores["interval_note"],
        ]
        if self.baseline and self.baseline["pixels"] < self.scores["pixels"]:
            some, all_of_them = f"{self.baseline['pixels']:,}", f"{self.scores['pixels']:,}"
            notes.append(f"Model and random forest are compared at {some} of the {all_of_them} pixels.")
        return "".join(f'<p class="soft">{escape(note)}</p>' for note in notes if note)

    def _confusion(self, judged: ClassTally) -> str:
        """The matrix as a table: shades are shares of a row, numbers lead to the windows behind them."""
        matrix, names = judged.confusion.sum(axis=0), self.task.strata
        write_bytes(self.out / f"confusion{self.suffix}.png", confusion_figure(matrix, names, self.unit))
        share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        rows = [
            [
                f"{swatch(self.palette[t])}{escape(name)}",
                *(self._cell(t, p, int(matrix[t, p]), share[t, p]) for p in range(len(names))),
            ]
            for t, name in enumerate(names)
        ]
        head = ["Labelled (row), predicted (column)", *map(escape, names)]
        matrix_table = table(head, rows, frozenset(range(1, len(head))))
        more = f"Counted are {self.unit}; a number leads to the windows behind it."
        return f'<div class="matrix">{matrix_table}</div><p class="soft">{more}</p>'

    def _cell(self, t: int, p: int, count: int, share: float) -> str:
        text = f"{count:,}"
        if (t, p) in self.windows.cells:
            text = f'<a href="#{self.windows.anchor(t, p)}">{text}</a>'
        colour = "27,127,121" if t == p else "179,38,30"
        shade = f"background:rgba({colour},{0.6 * share:.2f})" if count else ""
        return f'<span class="cell" style="{shade}" title="{100 * share:.1f} % of its row">{text}</span>'

    def _reliability(self) -> str:
        scores, fitted = self.scores, self.metrics["calibration"]
        before = scores.get("uncalibrated")
        figure = reliability_figure(scores["reliability"], before and before["reliability"], self.unit)
        write_bytes(self.out / f"reliability{self.suffix}.png", figure)
        points = f"{100 * scores['ece']:.1f} points"
        lines = [f"On average the model is {points} away from being as sure as it is right (ECE {scores['ece']:.3f})."]
        if before:
            lines.append(
                f"Its scores are divided by the temperature {fitted['temperature']:g}, fitted on validation; without "
                f"that the ECE would be {before['ece']:.3f}."
            )
        text = " ".join([*lines, fitted["note"]]).strip()
        return f"{embedded(figure, 'reliability diagram')}<p>{escape(text)}</p>"

    def _scatter(self, judged: ValueTally) -> str:
        assert self.task.range is not None
        figure = scatter_figure(judged.histogram, self.task.range, self.task.unit, self.scores["strata"])
        write_bytes(self.out / f"scatter{self.suffix}.png", figure)
        return embedded(figure, "estimates against measurements, and errors by range")


def _two_lines(text: str) -> str:
    """HTML: a score, and its interval below it."""
    value, bracket, interval = text.partition(" (")
    return f'{value}<br><span class="soft">{interval.removesuffix(")")}</span>' if bracket else value


def _usual(count: int) -> list[str]:
    return [USUAL[k % len(USUAL)] for k in range(count)]


def _palette(colours: Sequence[str], kind: str) -> np.ndarray:
    """(256, 3) uint8 of classes, or of levels from 0 to 254; white beyond."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    palette = np.full((256, 3), 255, np.uint8)
    if kind == "regression":
        palette[:255] = (255 * colormaps["viridis"](np.linspace(0, 1, 255))[:, :3]).round()
    else:
        palette[: len(colours)] = (255 * np.array([to_rgb(colour) for colour in colours])).round()
    return palette


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title[:1].upper() + title[1:])}</h2>{content}</section>\n"
