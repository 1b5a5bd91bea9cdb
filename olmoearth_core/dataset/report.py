"""expectations.html: one self-contained page that tells a person what is in a training set and whether to trust it.

No script, no font and no style is loaded from anywhere, and nothing in it changes from run to run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from olmoearth_core.dataset.dataset import Dataset
from olmoearth_core.dataset.expectations import Result, failed_errors
from olmoearth_core.dataset.html import table as _table
from olmoearth_core.dataset.label_report import label_section
from olmoearth_core.labels.split import SPLITS
from olmoearth_core.store import write_text

_SPLIT_COLORS = {"train": "#4c78a8", "validation": "#f2a541", "test": "#b5508f"}
_STYLE = """
:root { color-scheme: light dark; --text: #1c2530; --soft: #5d6b7a; --line: #dde3ea; --paper: #fff; --page: #f4f6f8;
  --good: #1a7f4b; --bad: #b3261e; --warn: #9a6700; }
@media (prefers-color-scheme: dark) { :root { --text: #e6ebf0; --soft: #9fadbb; --line: #34404d; --paper: #1b232c;
  --page: #12181f; --good: #5cc98d; --bad: #ff8a80; --warn: #e5b454; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 0 0 .75rem; }
p { margin: .25rem 0; } .soft { color: var(--soft); }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 1.1rem 1.25rem;
  margin-top: 1rem; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; } td.n, th.n { text-align: right; } tr:last-child td { border-bottom: 0; }
.good { color: var(--good); } .error { color: var(--bad); } .warning { color: var(--warn); }
.state { white-space: nowrap; }
.good, .error, .warning { font-weight: 600; }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em;
  border: 1px solid #0003; }
.verdict { font-size: 1.05rem; margin-top: .4rem; } code { font-size: .9em; } svg { display: block; max-width: 100%; }
"""


def write_report(
    path: Path,
    dataset: Dataset,
    statistics: Mapping[str, Any],
    results: Sequence[Result],
    left_out: Sequence[Mapping[str, str]],
    quality: Mapping[str, Any],
) -> None:
    """Write the page, whole or not at all.

    It names neither the project nor its colours: the same training set has the same page in every project.
    """
    sections = [
        _section("Expectations", _expectations(results)),
        _section(*_task(statistics)),
        *(_section(*_task(found, f" of {name}")) for name, found in statistics.get("auxiliary", {}).items()),
        _section("Labels", label_section(quality)),
        *(
            _section(f"Labels of {name}", label_section(found | {"remarks": [], "leakage": quality["leakage"]}))
            for name, found in quality.get("auxiliary", {}).items()
        ),
        _section("Where the windows are", _map(dataset)),
        _section("Bands, over valid training pixels", _bands(statistics)),
        _section("Windows left out", _left_out(left_out)),
    ]
    body = f"<header><h1>Training set</h1>{_verdict(dataset, results)}</header>{''.join(sections)}"
    write_text(
        path,
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Training set</title><style>{_STYLE}</style></head><body><main>{body}</main></body></html>\n",
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>\n"


def _verdict(dataset: Dataset, results: Sequence[Result]) -> str:
    errors = len(failed_errors(results))
    warnings = sum(not result.passed for result in results) - errors
    met = len(results) - errors - warnings
    if errors:
        state = f'<span class="error">Not fit for training: {errors} of {len(results)} expectations failed.</span>'
    elif warnings:
        state = f'<span class="warning">Fit for training, with {warnings} warning{"s" * (warnings > 1)}.</span>'
    else:
        state = '<span class="good">Fit for training: every expectation is met.</span>'
    dates = sorted(set(dataset.windows["date"]))
    bands = sum(len(names) for names in dataset.bands.values())
    size = dataset.window_size
    return (
        f'<p class="verdict">{state}</p><p class="soft">{len(dataset)} windows of {size} &times; {size} pixels of '
        f"{dataset.resolution:g} m ({escape(dataset.grid.crs)}) on {len(dates)} label date"
        f"{'s' * (len(dates) > 1)} from {dates[0]} to {dates[-1]} &middot; {dataset.timesteps} timestep"
        f"{'s' * (dataset.timesteps > 1)}, {bands} bands &middot; {met} of {len(results)} expectations met</p>"
    )


def _expectations(results: Sequence[Result]) -> str:
    """All results, those that failed first."""
    order = sorted(results, key=lambda result: (result.passed, result.severity))
    head = ["", "About", "Expected", "" if all(result.passed for result in results) else "Found instead"]
    return _table(head, map(_expectation, order))


def _expectation(result: Result) -> list[str]:
    about = f'<span class="soft">{result.table}</span>'
    if result.passed:
        return ['<span class="state good">&#10003; met</span>', about, escape(result.sentence), ""]
    mark = {"error": "&#10007; error", "warning": "! warning"}[result.severity]
    rows = f'<br><span class="soft">{escape("; ".join(result.rows))}</span>' if result.rows else ""
    return [
        f'<span class="state {result.severity}">{mark}</span>',
        about,
        escape(result.sentence),
        escape(result.found) + rows,
    ]


def _classes(statistics: Mapping[str, Any], word: str = "Class") -> str:
    classes = statistics["classes"]
    total = max(sum(split["pixels"] for splits in classes.values() for split in splits.values()), 1)
    rows = []
    for name, splits in classes.items():
        share = sum(split["pixels"] for split in splits.values()) / total
        bar = f'<rect width="{120 * share:.1f}" height="14" fill="currentColor" opacity=".4"/>'
        counts = [f"{splits[s]['windows']:,} / {splits[s]['pixels']:,}" for s in SPLITS]
        rows.append([escape(name), f"{share:.1%}", f'<svg width="120" height="14">{bar}</svg>', *counts])
    head = [word, "Share", "", *(f"{split}: windows / pixels" for split in SPLITS)]
    return _table(head, rows, frozenset({1, 3, 4, 5}))


def _task(statistics: Mapping[str, Any], of: str = "") -> tuple[str, str]:
    """(title, content) of the section about a task's classes, or its values."""
    if "values" not in statistics:
        return f"Classes{of}", _classes(statistics)
    rows = []
    for split, values in statistics["values"].items():
        numbers = ["mean", "std", "min", "max"]
        told = [f"{values[key]:,.6g}" for key in numbers] if values["count"] else [""] * len(numbers)
        medians = [f"{values['percentiles'][p]:,.6g}" for p in ("5", "50", "95")] if values["count"] else [""] * 3
        rows.append([split, f"{values['count']:,}", *told, *medians])
    head = ["Split", "Pixels", "Mean", "Std", "Min", "Max", "5 %", "Median", "95 %"]
    table = _table(head, rows, frozenset(range(1, len(head))))
    return f"Values{of}", f"{table}{_classes(statistics, 'Part of the range')}"


def _map(dataset: Dataset) -> str:
    """The windows as squares, coloured by split."""
    table = dataset.windows.drop_duplicates(["column", "row"])
    size = dataset.window_size
    columns, rows = table["column"].to_numpy() / size, table["row"].to_numpy() / size
    columns, rows = columns - columns.min(), rows - rows.min()
    cell = min(40.0, 860 / (columns.max() + 1), 600 / (rows.max() + 1))
    squares = "".join(
        f'<rect x="{x * cell:.2f}" y="{y * cell:.2f}" width="{0.94 * cell:.2f}" height="{0.94 * cell:.2f}" '
        f'fill="{_SPLIT_COLORS[split]}"><title>{split}: {name}</title></rect>'
        for x, y, split, name in zip(columns, rows, table["split"], table["name"], strict=True)
    )
    places = Counter(table["split"])
    legend = " &nbsp; ".join(
        f'<span class="swatch" style="background:{_SPLIT_COLORS[s]}"></span>{s} ({places[s]} places)' for s in SPLITS
    )
    width, height = np.ceil(cell * (columns.max() + 1)), np.ceil(cell * (rows.max() + 1))
    return (
        f'<p class="soft">North is up. A place keeps its split on all dates.</p><p>{legend}</p>'
        f'<svg width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">{squares}</svg>'
    )


def _bands(statistics: Mapping[str, Any]) -> str:
    bands = [(m, name, values) for m, named in statistics["bands"].items() for name, values in named.items()]
    top = max((values["percentiles"]["99"] for *_, values in bands if values["count"]), default=1) or 1
    rows = []
    for modality, name, values in bands:
        label = f'{escape(name)} <span class="soft">{escape(modality)}</span>'
        if not values["count"]:
            rows.append([label, "", "", "", "", "no valid pixel"])
            continue
        numbers = [f"{values[key]:,.0f}" for key in ("mean", "std", "min", "max")]
        rows.append([label, *numbers, _range_plot({int(p): v / top for p, v in values["percentiles"].items()})])
    head = ["Band", "Mean", "Std", "Min", "Max", f"1 to 99 %, 25 to 75 %, median (0 to {top:,})"]
    return _table(head, rows, frozenset({1, 2, 3, 4}))


def _range_plot(share: Mapping[int, float]) -> str:
    """Percentiles as a line, a box and a mark; `share` is of the plot's width."""
    x = {p: 300 * value for p, value in share.items()}
    return (
        '<svg width="302" height="16">'
        f'<line x1="{x[1]:.1f}" x2="{x[99]:.1f}" y1="8" y2="8" stroke="currentColor" opacity=".45"/>'
        f'<rect x="{x[25]:.1f}" y="3" width="{max(x[75] - x[25], 1):.1f}" height="10" fill="#4c78a8" opacity=".75"/>'
        f'<line x1="{x[50]:.1f}" x2="{x[50]:.1f}" y1="1" y2="15" stroke="currentColor" stroke-width="2"/></svg>'
    )


def _left_out(left_out: Sequence[Mapping[str, str]]) -> str:
    if not left_out:
        return '<p class="good">None.</p>'
    reasons = Counter(item["reason"] for item in left_out)
    rows = [
        [f"{count:,}", escape(reason), escape(", ".join(names[:6]) + (", ..." if len(names) > 6 else ""))]
        for reason, count in sorted(reasons.items())
        for names in [[item["window"] for item in left_out if item["reason"] == reason]]
    ]
    more = '<p class="soft">All of them are listed in left_out.json.</p>'
    return _table(["Windows", "Reason", "Which"], rows, frozenset({0})) + more
