"""The pictures of a report: confusion matrix, reliability, scatter, and the worst windows side by side.

Equal scores give equal bytes: a person's own matplotlib settings do not count, and no version or time is written.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

INK, SOFT, TEAL, AMBER = "#1f2933", "#8595a5", "#1b7f79", "#c98b2b"
_NO_VERSION: dict[str, Any] = {"Software": None}
NUMBERED = 15
"""Classes up to which every cell of a confusion matrix holds its number, and every axis its names."""


def png(figure: Any) -> bytes:
    """A figure as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content, metadata=_NO_VERSION)
    return content.getvalue()


def image(pixels: np.ndarray) -> bytes:
    """(h, w, 3) uint8 as PNG, pixel by pixel."""
    from matplotlib.image import imsave

    content = io.BytesIO()
    imsave(content, pixels, format="png", metadata=_NO_VERSION)
    return content.getvalue()


def confusion_figure(matrix: np.ndarray, names: Sequence[str], unit: str) -> bytes:
    """Shares of each class's pixels by what they were predicted to be.

    Args:
        matrix: (K, K), rows are the truth, columns the prediction.
        names: the K class names.
        unit: of what is counted, "pixels" or "windows".
    """
    from matplotlib import rc_context, rcParamsDefault

    with rc_context(rcParamsDefault):
        true = matrix.sum(axis=1, keepdims=True)
        share = np.divide(matrix, true, out=np.zeros(matrix.shape), where=true > 0)
        edge = min(10.0, 2.6 + 0.62 * len(names)) if len(names) <= NUMBERED else 8.0
        figure, axes = _page(edge + 0.6, edge)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        axes.set(xlabel="predicted", ylabel="labelled")
        if len(names) <= NUMBERED:
            short = [name if len(name) <= 16 else f"{name[:15]}…" for name in names]
            axes.set_xticks(range(len(names)), short, rotation=35, ha="right", fontsize=9)
            axes.set_yticks(range(len(names)), short, fontsize=9)
            for (row, column), value in np.ndenumerate(share):
                if matrix[row, column]:
                    text = f"{100 * value:.0f} %" if value >= 0.01 else "<1 %"
                    axes.text(column, row, text, ha="center", va="center", fontsize=8.5,
                              color="white" if value > 0.55 else INK)  # fmt: skip
        axes.set_title(f"{int(matrix.sum()):,} labelled {unit}, as share of each row", fontsize=10, color=INK)
        return png(figure)


def reliability_figure(bins: Sequence[Any], before: Sequence[Any] | None, unit: str) -> bytes:
    """How often the model is right when it is so sure, and how often it is so sure.

    Args:
        bins: [count, mean confidence, share that is right] of each bin, as in metrics.json.
        before: the same without the temperature; None where none was fitted.
        unit: of what is counted.
    """
    from matplotlib import rc_context, rcParamsDefault
    from matplotlib.ticker import PercentFormatter

    with rc_context(rcParamsDefault):
        figure, (axes, below) = _page(5.2, 5.6, 2, height_ratios=(3.2, 1), sharex=True)
        axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle="--", label="as sure as it is right")
        if before:
            _, sure, right = np.array(before, float).T
            axes.plot(sure, right, "o-", color=AMBER, markersize=4, linewidth=1, label="before calibration")
        count, sure, right = np.array(bins, float).T
        label = "after calibration" if before else "model"
        axes.plot(sure, right, "o-", color=TEAL, markersize=5, linewidth=1.6, label=label)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), ylabel="share that is right")
        axes.legend(loc="upper left", fontsize=8.5, frameon=False)
        below.bar(sure, count / count.sum(), width=0.045, color=TEAL, alpha=0.7)
        below.set(xlabel="how sure the model is (probability of its class)", ylabel=f"share of\n{unit}")
        for axis in (axes, below):
            axis.xaxis.set_major_formatter(PercentFormatter(1))
            axis.yaxis.set_major_formatter(PercentFormatter(1))
            axis.spines[["top", "right"]].set_visible(False)
        return png(figure)


def scatter_figure(histogram: np.ndarray, limits: tuple[float, float], unit: str, strata: Mapping[str, Any]) -> bytes:
    """Estimates against the truth, and how far off they are in each part of the range.

    Args:
        histogram: (n, n), pixels by truth (row) and estimate (column) over the range.
        limits: least and largest possible value.
        unit: of the values.
        strata: part of the range -> {bias, rmse, pixels}, as in metrics.json.
    """
    from matplotlib import rc_context, rcParamsDefault
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    with rc_context(rcParamsDefault):
        low, high = limits
        figure, (axes, right) = _page(9.6, 4.6, 1, 2)
        counts = np.ma.masked_equal(histogram.T, 0)
        norm = LogNorm(1, max(2, int(histogram.max())))
        shown = axes.imshow(counts, origin="lower", extent=(low, high, low, high), cmap="viridis", norm=norm)
        axes.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle="--")
        axes.set(xlabel=f"measured ({unit})", ylabel=f"estimated ({unit})")
        bar = figure.colorbar(shown, ax=axes, label="pixels", shrink=0.85)
        bar.ax.yaxis.set_major_formatter(ScalarFormatter())
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
        known = {name: values for name, values in strata.items() if values["pixels"]}
        bias, rmse = ([values[key] for values in known.values()] for key in ("bias", "rmse"))
        places = np.arange(len(known))
        right.bar(places - 0.2, bias, 0.38, color=AMBER, label="bias (estimate less truth)")
        right.bar(places + 0.2, rmse, 0.38, color=TEAL, label="RMSE")
        right.axhline(0, color=INK, linewidth=0.8)
        right.set_xticks(places, list(known), fontsize=9)
        right.set(xlabel=f"measured ({unit})", ylabel=f"error ({unit})")
        right.margins(y=0.2)
        right.legend(loc="upper center", fontsize=8.5, frameon=False, ncols=2)
        right.spines[["top", "right"]].set_visible(False)
        return png(figure)


def scale_bar(metres: float) -> tuple[float, str]:
    """(length in metres, what stands at it) of a scale bar: 1, 2 or 5 tens, at most two fifths of `metres`."""
    power = 10.0 ** math.floor(math.log10(0.4 * metres))
    length = max((factor * power for factor in (1, 2, 5) if factor * power <= 0.4 * metres), default=power)
    return length, f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"


def worst_figure(
    strips: Sequence[np.ndarray],
    captions: Sequence[str],
    heading: str,
    *,
    metres: float,
    legend: Sequence[tuple[str, str]] = (),
) -> bytes:
    """Windows side by side, each a strip of pictures.

    Args:
        strips: (h, w, 3) uint8 each.
        captions: a line or two under each.
        heading: what the pictures of a strip are.
        metres: edge of a window, which is a picture's height; the first picture gets a scale bar.
        legend: ("#rrggbb", what it means) of the colours in the strips.
    """
    from matplotlib import rc_context, rcParamsDefault
    from matplotlib.patches import Patch

    with rc_context(rcParamsDefault):
        wide = strips[0].shape[1] > 1.5 * strips[0].shape[0]
        columns = min(len(strips), 3 if wide else 6)
        rows = -(-len(strips) // columns)
        width, in_a_row = (3.6 if wide else 1.9) * columns, (3 if wide else 2) * columns
        height = (1.62 if wide else 2.35) * rows + 0.45 + 0.2 * -(-len(legend) // in_a_row)
        figure, axes = _page(width, height, rows, columns)
        for axis in np.atleast_1d(axes).flat:
            axis.axis("off")
        for axis, strip, caption in zip(np.atleast_1d(axes).flat, strips, captions, strict=False):
            axis.imshow(strip, interpolation="nearest")
            axis.set_title(caption, fontsize=7.5, color=INK, loc="left")
        _draw_scale(np.atleast_1d(axes).flat[0], strips[0], metres)
        figure.suptitle(heading, fontsize=10, color=INK, x=0.01, ha="left")
        if legend:
            patches = [Patch(facecolor=colour, edgecolor=SOFT, linewidth=0.5, label=name) for colour, name in legend]
            figure.legend(handles=patches, loc="outside lower left", ncols=in_a_row, fontsize=7.5, frameon=False)
        return png(figure)


def _draw_scale(axes: Any, strip: np.ndarray, metres: float) -> None:
    """A scale bar in the lower left of a strip whose height is `metres`."""
    from matplotlib.patheffects import withStroke

    length, text = scale_bar(metres)
    edge = len(strip)
    left, right, y = 0.05 * edge, (0.05 + length / metres) * edge, 0.93 * edge
    outline = [withStroke(linewidth=3.5, foreground=INK)]
    limits = axes.get_xlim(), axes.get_ylim()
    axes.plot([left, right], [y, y], color="white", linewidth=1.8, solid_capstyle="butt", path_effects=outline)
    axes.text((left + right) / 2, y - 0.03 * edge, text, color="white", fontsize=7, ha="center", va="bottom",
              path_effects=outline)  # fmt: skip
    axes.set(xlim=limits[0], ylim=limits[1])  # a line would move them


def _page(width: float, height: float, rows: int = 1, columns: int = 1, **how: Any) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, facecolor="white", layout="constrained")
    return figure, figure.subplots(rows, columns, **how)
