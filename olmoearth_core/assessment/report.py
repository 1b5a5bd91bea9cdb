"""The assessment as a page that stands alone: areas with their errors, accuracies, the error matrix."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context, rcParamsDefault
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from olmoearth_core.store import write_text

STYLE = """body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.3rem .7rem;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}.right{background:#e5f2e5}.dim{color:#777}img{max-width:100%}"""


def write_report(path: Path, result: dict[str, Any]) -> None:
    """Write the page of what `assess` found."""
    classes: dict[str, Any] = result["classes"]
    rows = [
        [
            name,
            f"{found['mapped_hectares']:,.1f}",
            with_interval(found["area_hectares"], ",.1f"),
            with_interval(found["users_accuracy"], ".3f"),
            with_interval(found["producers_accuracy"], ".3f"),
            str(found["units"]),
        ]
        for name, found in classes.items()
    ]
    header = ["class", "mapped, ha", "area, ha", "user's accuracy", "producer's accuracy", "units"]
    matrix = [
        [name, *map(str, counts), str(sum(counts))] for name, counts in zip(classes, result["counts"], strict=True)
    ]
    notes = "".join(f"<p>{escape(note)}</p>" for note in result["notes"])
    name, design = escape(result["map_id"]), result["design"]
    write_text(
        path,
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Assessment of {name}</title>"
        f"<style>{STYLE}</style><h1>Accuracy and areas</h1><p>Map {name}, {design['units']} sample units "
        f"({design['kind']}). Overall accuracy {with_interval(result['overall_accuracy'], '.3f')}.</p>"
        "<p class=dim>In brackets: 95 % intervals. Areas are those of the reference, not pixels counted in the map: "
        f"they allow for the map's mistakes. {escape(result['method'])}.</p>{notes}{_table(header, rows)}"
        f'<img alt="areas" src="data:image/png;base64,{_chart(classes)}">'
        "<h2>Sample units: mapped (rows), reference (columns)</h2>"
        f"{_table(['', *classes, 'all'], matrix, diagonal=True)}</html>\n",
    )


def with_interval(estimate: dict[str, float | None], form: str) -> str:
    """ "0.880 (0.806 to 0.954)", or a dash where nothing is known."""
    if estimate["value"] is None or estimate["low"] is None:
        return "-"
    return f"{estimate['value']:{form}} ({estimate['low']:{form}} to {estimate['high']:{form}})"


def _table(header: list[str], rows: list[list[str]], *, diagonal: bool = False) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = ""
    for i, row in enumerate(rows):
        cells = "".join(
            f"<td{' class=right' if diagonal and k == i + 1 else ''}>{escape(cell)}</td>" for k, cell in enumerate(row)
        )
        body += f"<tr>{cells}</tr>"
    return f"<table><tr>{head}</tr>{body}</table>"


def _chart(classes: dict[str, Any]) -> str:
    """Areas as bars with their intervals beside the mapped ones, as base64 of a PNG."""
    with rc_context(rcParamsDefault):
        figure = Figure(figsize=(8, 0.8 + 0.6 * len(classes)), dpi=120)
        axes = figure.add_subplot()
        y = np.arange(len(classes))
        values = [found["area_hectares"]["value"] for found in classes.values()]
        low = [v - found["area_hectares"]["low"] for v, found in zip(values, classes.values(), strict=True)]
        high = [found["area_hectares"]["high"] - v for v, found in zip(values, classes.values(), strict=True)]
        axes.barh(
            y - 0.18, values, 0.34, xerr=(low, high), capsize=3, color="#3b7a57", label="estimated, 95 % interval"
        )
        mapped = [found["mapped_hectares"] for found in classes.values()]
        axes.barh(y + 0.18, mapped, 0.34, color="#c9c9c9", label="mapped")
        axes.set_yticks(y, list(classes))
        axes.invert_yaxis()
        axes.set_xlabel("hectares")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        figure.tight_layout()
        content = io.BytesIO()
        FigureCanvasAgg(figure).print_png(content, metadata={"Software": None})
    return base64.b64encode(content.getvalue()).decode()
