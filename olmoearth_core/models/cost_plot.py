"""What encoders cost, drawn beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from olmoearth_core.models.cost import Estimate, figures

FAMILY_COLOURS = {"v1": "#7a6f5d", "v1.1": "#1b7f79", "v1.2": "#3b6fb6", "v1.3": "#a0458c", "galileo": "#c98b2b"}
"""What a family's sizes are drawn in."""


def plot(rows: Sequence[Estimate], path: Path) -> None:
    """Draw the encoders as a PNG: GMAC per km2 and, where speed is known, hours (or windows per second)."""
    from matplotlib.figure import Figure

    from olmoearth_core.store import whole_file

    panels: list[tuple[str, list[float]]] = [("GMAC per km²", [r.macs_per_km2 / 1e9 for r in rows])]
    if all(r.hours is not None for r in rows):
        panels.append((f"hours for {rows[0].windows:,.0f} windows", [r.hours or 0.0 for r in rows]))
    elif all(r.speed is not None for r in rows):
        panels.append(("windows per second", [r.speed.windows_per_second for r in rows if r.speed]))
    figure = Figure(figsize=(5.5 * len(panels), 0.38 * len(rows) + 1.4), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, values) in zip(axes, panels, strict=True):
        bars = axis.barh(
            [r.name for r in rows], values, color=[FAMILY_COLOURS[r.name.split("-")[0]] for r in rows], height=0.7
        )
        axis.bar_label(bars, [figures(v) for v in values], padding=3, fontsize=8)
        axis.set(xscale="log", xlabel=title, xlim=(min(values) / 2, max(values) * 5))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    work = rows[0].work
    title = f"{' + '.join(work.modalities)}, {work.window_size} px, patch {work.patch_size}, T = {work.timesteps}"
    figure.suptitle(title, fontsize=10)
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=130, metadata={"Software": None})
