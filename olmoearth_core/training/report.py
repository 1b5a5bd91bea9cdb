"""report.html: one self-contained page that tells a partner how good a model is, where it fails, and what to doubt.

Nothing is loaded from anywhere, and nothing in it changes from run to run. Its figures lie beside it as PNGs as well.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from olmoearth_core.dataset.dataset import Dataset
from olmoearth_core.dataset.html import table
from olmoearth_core.store import write_bytes, write_text
from olmoearth_core.training.answers import Read, Task
from olmoearth_core.training.figures import (
    confusion_figure,
    image,
    reliability_figure,
    scatter_figure,
    worst_figure,
)
from olmoearth_core.training.gallery import BEHIND, WORST, Look, behind, pictures, strip, worst
from olmoearth_core.training.report_style import STYLE
from olmoearth_core.training.tally import ClassTally, ValueTally
from olmoearth_core.training.verdict import NAMES, shown, with_interval

if TYPE_CHECKING:
    from olmoearth_core.training.judge import Judged

REPORT = "report.html"
USUAL = ("#1b7f79", "#c98b2b", "#7b5ea7", "#b23a48", "#4c78a8", "#8a9a3b", "#8c5a3c", "#5d6b7a")
"""Colours of classes where a task names none."""
OVERALL: Mapping[str, Sequence[str]] = {
    "segmentation": ("miou", "overall_accuracy", "macro_f1", "ece", "log_loss"),
    "classification": ("macro_f1", "overall_accuracy", "miou", "ece", "log_loss"),
    "regression": ("r2", "rmse", "mae", "bias", "r"),
}
"""Kind of task -> its overall scores, in the order they are shown."""


def write_report(
    out: Path,
    dataset: Dataset,
    judged: Mapping[str, Sequence[Judged]],
    metrics: Mapping[str, dict[str, Any]],
    colours: Mapping[str, Sequence[str]],
    read: Read,
) -> None:
    """Write the page and its figures to the folder `out`, each whole or not at all.

    Args:
        out: the folder.
        dataset: whose windows were judged.
        judged: task -> what was found in validation and test.
        metrics: task -> scores, as `judge` gives them.
        colours: task -> "#rrggbb" of each class.
        read: gives samples by rows of the window table.
    """
    parts = []
    for name in judged:
        page = _TaskPage(out, dataset, name, judged[name], metrics[name], colours.get(name), read, len(judged))
        parts.append("".join(page.sections()))
    write_text(
        out / REPORT,
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>How good the model is</title><style>{STYLE}</style></head>"
        f"<body><main><header><h1>How good the model is</h1></header>{''.join(parts)}</main></body></html>\n",
    )


class _TaskPage:
    """The sections about one task. The test is shown in pictures; validation where there is no test."""

    def __init__(
        self,
        out: Path,
        dataset: Dataset,
        name: str,
        judged: Sequence[Judged],
        metrics: dict[str, Any],
        colours: Sequence[str] | None,
        read: Read,
        tasks: int,
    ) -> None:
        self.out, self.dataset, self.name, self.metrics = out, dataset, name, metrics
        self.suffix = "" if (out / REPORT).parent and tasks == 1 else f"_{name}"
        self.splits = [j for j in judged if len(j.tally.rows)]
        self.task: Task = judged[0].task
        self.heading = "" if tasks == 1 else f"{name}: "
        self.unit = "windows" if self.task.kind == "classification" else "pixels"
        self.palette = _palette(colours or _usual(len(self.task.strata)), self.task.kind)
        if self.splits:
            self._look_at(self.splits[-1], read, max(1, tasks))

    def _look_at(self, judged: Judged, read: Read, tasks: int) -> None:
        """Choose the windows to show of the last split that was judged, and make their pictures."""
        self.seen = judged
        self.worst = worst(judged.tally, max(3, WORST // tasks))
        self.cells = behind(judged.tally, BEHIND // tasks) if isinstance(judged.tally, ClassTally) else {}
        rows = sorted({*self.worst, *(row for cell in self.cells.values() for row in cell)})
        looked = pictures(read, rows, self.dataset.bands)
        self.strips = {row: strip(looked[row], self._look(judged.gallery.looks[row]), self.palette) for row in rows}
        self.captions = dict(zip(rows, _captions(self.dataset, rows), strict=True))

    def _look(self, look: Look) -> Look:
        """With values as 0 to 255 over the task's range, 255 for none."""
        if self.task.range is None or self.task.kind != "regression":
            return look
        low, high = self.task.range

        def level(values: np.ndarray) -> np.ndarray:
            share = np.clip((values - low) / (high - low), 0, 1)
            return np.where(np.isfinite(values), np.nan_to_num(share) * 254, 255).astype(np.uint8)

        return Look(level(look.truth), level(look.said))

    def sections(self) -> Iterator[str]:
        """HTML, one section after the other."""
        if not self.splits:
            yield _section(f"{self.heading}not judged", "<p>Neither validation nor test holds a labelled pixel.</p>")
            return
        yield _section(f"{self.heading}in one sentence", self._verdict())
        yield _section(f"{self.heading}scores", self._overall() + self._parts() + self._notes())
        if isinstance(self.seen.tally, ClassTally):
            yield _section(f"{self.heading}what is taken for what", self._confusion(self.seen.tally))
            yield _section(f"{self.heading}how sure it is, and how right", self._reliability())
        if isinstance(self.seen.tally, ValueTally):
            yield _section(f"{self.heading}estimates and measurements", self._scatter(self.seen.tally))
        yield _section(f"{self.heading}the worst windows", self._worst())
        if self.cells:
            yield _section(f"{self.heading}windows behind the confusion matrix", "".join(self._behind()))

    def _verdict(self) -> str:
        scores = self.metrics[self.seen.split]
        key = self.metrics["headline"]
        lines = [
            f'<p class="verdict">{escape(NAMES[key])} on the {self.seen.split} windows: '
            f"<b>{with_interval(scores, key)}</b></p>"
        ]
        if baseline := scores["baseline"]:
            state = {"better": "good", "worse": "error"}.get(baseline["verdict"], "warning")
            lines.append(f'<p class="{state}">{escape(baseline["sentence"])}</p>')
        else:
            lines.append('<p class="soft">There is no random forest to compare with: too little to learn from.</p>')
        if self.seen.split == "validation":
            lines.append("<p>There are no test windows: epochs were chosen by these, so the scores flatter.</p>")
        return "".join(lines)

    def _overall(self) -> str:
        head, columns = ["Score"], []
        for judged in self.splits:
            scores = self.metrics[judged.split]
            head.append(judged.split)
            columns.append([with_interval(scores, key) for key in OVERALL[self.task.kind]])
        if baseline := self.metrics[self.seen.split]["baseline"]:
            head += [f"random forest, {self.seen.split}", "difference"]
            columns.append([shown(key, baseline["scores"][key]) for key in OVERALL[self.task.kind]])
            columns.append([_difference(baseline["difference"], key) for key in OVERALL[self.task.kind]])
        names = [escape(self._named(key)) for key in OVERALL[self.task.kind]]
        return table(head, zip(names, *columns, strict=True), frozenset(range(1, len(head))))

    def _named(self, key: str) -> str:
        unit = f" ({self.task.unit})" if key in ("rmse", "mae", "bias") and self.task.unit else ""
        return f"{NAMES[key]}{unit}"

    def _parts(self) -> str:
        """Scores by class, or by part of the range, of the split that is looked at."""
        scores = self.metrics[self.seen.split]
        is_value = self.task.kind == "regression"
        section, keys = (
            ("strata", ("bias", "mae", "rmse")) if is_value else ("classes", ("iou", "f1", "precision", "recall"))
        )
        baseline = scores["baseline"]
        head = [
            f"By {'range' if is_value else 'class'}, {self.seen.split}",
            *(self._named(key) for key in keys),
            self.unit,
        ]
        rows = []
        for name, values in scores[section].items():
            row = [escape(name), *(with_interval(scores, section, name, key) for key in keys), f"{values['pixels']:,}"]
            if baseline:
                row.append(_difference(baseline["difference"], section, name, keys[0] if not is_value else "rmse"))
            rows.append(row)
        if baseline:
            head.append(f"{'RMSE' if is_value else 'IoU'}, model less forest")
        return table(head, rows, frozenset(range(1, len(head))))

    def _notes(self) -> str:
        scores = self.metrics[self.seen.split]
        notes = [
            f"In brackets: 95 % intervals, by drawing the {scores['blocks']} blocks of ground anew. They tell how far a "
            "score would move on other ground like this; they do not tell of other places, seasons or labels."
        ]
        notes += [scores["interval_note"]] if scores["interval_note"] else []
        baseline = scores["baseline"]
        if baseline and baseline["pixels"] < scores["pixels"]:
            notes.append(
                f"Model and random forest are compared at {baseline['pixels']:,} of {scores['pixels']:,} pixels."
            )
        return "".join(f'<p class="soft">{escape(note)}</p>' for note in notes)

    def _confusion(self, judged: ClassTally) -> str:
        """The matrix as a table: shades are shares of a row, numbers link to the windows behind them."""
        matrix = judged.confusion.sum(axis=0)
        figure = confusion_figure(matrix, self.task.strata, self.unit)
        write_bytes(self.out / f"confusion{self.suffix}.png", figure)
        rows = []
        for t, name in enumerate(self.task.strata):
            total = max(1, int(matrix[t].sum()))
            cells = [self._cell(t, p, int(matrix[t, p]), matrix[t, p] / total) for p in range(len(self.task.strata))]
            rows.append([f"{self._swatch(t)}{escape(name)}", *cells])
        head = ["Labelled (row), predicted (column)", *map(escape, self.task.strata)]
        numbers = frozenset(range(1, len(head)))
        return f'<div class="matrix">{table(head, rows, numbers)}</div><p class="soft">{self.unit}; a number leads to the windows behind it.</p>'

    def _cell(self, t: int, p: int, count: int, share: float) -> str:
        text = f"{count:,}"
        if (t, p) in self.cells:
            text = f'<a href="#{self._anchor(t, p)}">{text}</a>'
        colour = "27,127,121" if t == p else "179,38,30"
        shade = f"background:rgba({colour},{0.75 * share:.2f})" if count else ""
        return f'<span class="cell" style="{shade}" title="{share:.1%} of its row">{text}</span>'

    def _anchor(self, t: int, p: int) -> str:
        return f"cell{self.suffix}-{t}-{p}"

    def _swatch(self, index: int) -> str:
        colour = "#{:02x}{:02x}{:02x}".format(*self.palette[index])
        return f'<span class="swatch" style="background:{colour}"></span>'

    def _reliability(self) -> str:
        scores, fitted = self.metrics[self.seen.split], self.metrics["calibration"]
        before = scores.get("uncalibrated")
        figure = reliability_figure(scores["reliability"], before and before["reliability"], self.unit)
        write_bytes(self.out / f"reliability{self.suffix}.png", figure)
        ece = scores["ece"]
        lines = [
            f"On average the model is {100 * ece:.1f} points away from being as sure as it is right (ECE {ece:.3f})."
        ]
        if before:
            lines.append(
                f"Scores are divided by the temperature {fitted['temperature']:g}, fitted on validation; without it the ECE "
                f"would be {before['ece']:.3f}."
            )
        if fitted["note"]:
            lines.append(fitted["note"])
        return _embedded(figure, "reliability diagram") + f"<p>{escape(' '.join(lines))}</p>"

    def _scatter(self, judged: ValueTally) -> str:
        assert self.task.range is not None
        strata = self.metrics[self.seen.split]["strata"]
        figure = scatter_figure(judged.histogram, self.task.range, self.task.unit, strata)
        write_bytes(self.out / f"scatter{self.suffix}.png", figure)
        return _embedded(figure, "estimates against measurements, and errors by range")

    def _worst(self) -> str:
        loss = dict(zip(self.seen.tally.rows.tolist(), self.seen.tally.loss.tolist(), strict=True))
        total = max(sum(loss.values()), 1e-12)
        what = "loss" if self.task.kind != "regression" else "squared error"
        shares = {row: f"{loss[row] / total:.1%} of the whole {what}" for row in self.worst}
        captions = [f"{self.captions[row][0]}\n{shares[row]}" for row in self.worst]
        heading = self._strip_heading()
        write_bytes(
            self.out / f"worst{self.suffix}.png",
            worst_figure([self.strips[row] for row in self.worst], captions, f"The worst windows: {heading}"),
        )
        cards = "".join(self._card(row, shares[row]) for row in self.worst)
        return f'<p class="soft">{escape(heading)}.</p>{self._legend()}<div class="gallery">{cards}</div>'

    def _behind(self) -> Iterator[str]:
        yield f'<p class="soft">{escape(self._strip_heading())}; those with most such {self.unit}.</p>{self._legend()}'
        tally = self.seen.tally
        assert isinstance(tally, ClassTally)
        place = {row: k for k, row in enumerate(tally.rows.tolist())}
        for (t, p), rows in self.cells.items():
            right = " (right)" if t == p else ""
            title = f"{self.task.strata[t]} taken for {self.task.strata[p]}" if t != p else self.task.strata[t]
            said = [f"{int(tally.confusion[place[row], t, p]):,} {self.unit}" for row in rows]
            if self.unit == "windows":
                said = [""] * len(rows)
            cards = "".join(self._card(row, text) for row, text in zip(rows, said, strict=True))
            yield f'<h3 id="{self._anchor(t, p)}">{escape(title + right)}</h3><div class="gallery">{cards}</div>'

    def _strip_heading(self) -> str:
        if self.task.kind == "classification":
            return f"{self.seen.split.capitalize()} windows as the satellite saw them"
        return f"{self.seen.split.capitalize()} windows: as the satellite saw them, as labelled, as predicted"

    def _legend(self) -> str:
        if self.task.kind == "classification":
            return ""
        if self.task.kind == "regression" and self.task.range is not None:
            low, high = self.task.range
            stops = ", ".join("#{:02x}{:02x}{:02x}".format(*self.palette[k]) for k in range(0, 255, 42))
            ramp = f'<span class="ramp" style="background:linear-gradient(90deg, {stops})"></span>'
            return f"<p>{low:g} {ramp} {high:g} {escape(self.task.unit)}; white is not labelled</p>"
        names = "&ensp;".join(f"{self._swatch(k)}{escape(name)}" for k, name in enumerate(self.task.strata))
        return f"<p>{names}&ensp;<span class=swatch></span>not labelled</p>"

    def _card(self, row: int, text: str) -> str:
        name, when, where = self.captions[row]
        said = ""
        if self.task.kind == "classification":
            look = self.seen.gallery.looks[row]
            truth, answer = self.task.strata[int(look.truth[0, 0])], self.task.strata[int(look.said[0, 0])]
            said = f"labelled {truth}, predicted {answer}"
        lines = [line for line in (f"{when}, {where}", said, text) if line]
        picture = _embedded(image(self.strips[row]), f"window {name}")
        return f"<figure>{picture}<figcaption><b>{escape(name)}</b><br>{'<br>'.join(map(escape, lines))}</figcaption></figure>"


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


def _difference(difference: Mapping[str, Any], *path: str) -> str:
    """A difference and its interval, with signs."""
    found: Any = difference
    for name in path:
        found = found.get(name) if found else None
    if found is None:
        return "none"

    def signed(value: float) -> str:
        return f"{value:+.3f}" if path[-1] not in ("rmse", "mae", "bias") else f"{value:+.3g}"

    if found["low"] is None:
        return signed(found["value"])
    return f"{signed(found['value'])} ({signed(found['low'])} to {signed(found['high'])})"


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


def _embedded(content: bytes, what: str) -> str:
    return f'<img alt="{escape(what)}" src="data:image/png;base64,{base64.b64encode(content).decode()}">'


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title[:1].upper() + title[1:])}</h2>{content}</section>\n"
