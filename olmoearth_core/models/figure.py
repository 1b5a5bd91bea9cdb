"""The figure of docs/encoders.md: how the bands of a Sentinel-2 patch become tokens, and what that costs.

    python -c "from olmoearth_core.models.figure import draw; draw('docs/encoders.png')"

Everything in it is read from the configurations and counted by `cost.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from olmoearth_core.models.config import named
from olmoearth_core.models.cost import Workload, macs, tokens
from olmoearth_core.models.modalities import SENTINEL2
from olmoearth_core.store import whole_file

COLOURS = ("#1b7f79", "#c98b2b", "#7b5ea7")
MONTHS = 12


def draw(path: Path | str) -> None:
    """Draw the figure as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.25, 1, 1.1))
    for axis, name in ((left, "v1-nano"), (middle, "v1.1-nano")):
        _tokens(axis, name)
    left.set_yticks(range(len(SENTINEL2.bands)), SENTINEL2.band_names, fontsize=7)
    _cost(right)
    with whole_file(Path(path)) as partial:
        figure.savefig(partial, format="png", dpi=130, metadata={"Software": None})


def _tokens(axis: Any, name: str) -> None:
    """One patch: a column a month, a row a band, a box a token."""
    from matplotlib.patches import FancyBboxPatch

    sets = named(name).band_sets[SENTINEL2.name]
    for month in range(MONTHS):
        for colour, bands in zip(COLOURS, sets, strict=False):
            rows = [SENTINEL2.band_names.index(b) for b in bands]
            box = FancyBboxPatch(
                (month - 0.32, min(rows) - 0.32), 0.64, max(rows) - min(rows) + 0.64,
                boxstyle="round,pad=0.08", facecolor=colour, edgecolor="white", alpha=0.85,
            )  # fmt: skip
            axis.add_patch(box)
    axis.set(xlim=(-0.7, MONTHS - 0.3), ylim=(len(SENTINEL2.bands) - 0.3, -0.7), xlabel="month")
    axis.set_xticks(range(MONTHS), range(1, MONTHS + 1), fontsize=7)
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    count = len(sets) * MONTHS
    axis.set_title(f"{name.rsplit('-', 1)[0]}: {count} tokens for a patch and a year", fontsize=10)


def _cost(axis: Any) -> None:
    """GMAC of a 64 px window at patch 4, and how much of it is attention, which grows with the square of the tokens."""
    work = Workload(64, 4, MONTHS)
    names = [f"{version}-{size}" for size in ("nano", "tiny", "base") for version in ("v1", "v1.1")]
    for row, name in enumerate(names):
        config, n = named(name), tokens(named(name), work)
        attention = 2 * n * n * config.embedding_size * config.depth / 1e9
        total = macs(config, work) / 1e9
        axis.barh(row, 1.0, color="#d9d9d9")
        axis.barh(row, attention / total, color=COLOURS[0], alpha=0.5)
        axis.text(0.02, row, f"{total:,.0f} GMAC, {n:,} tokens", va="center", fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.invert_yaxis()
    axis.set(xlim=(0, 1), xlabel="share of attention (green) in the whole")
    axis.set_title("a 64 px window, patch 4, a year", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
