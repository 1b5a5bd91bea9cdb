"""A comparison of encoders as a table and as a plot: what it costs across, how good it is up, sizes joined by lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from olmoearth_core.models.cost import figures
from olmoearth_core.models.cost_plot import FAMILY_COLOURS
from olmoearth_core.models.score_text import NAMES
from olmoearth_core.store import whole_file, write_json, write_text

FILES = ("comparison.json", "comparison.md", "comparison.png")


def write_comparison(found: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write comparison.json, comparison.md and comparison.png; the first is what `compare_encoders` gave.

    Raises:
        StoreError: the disk is full, or the place cannot be written.
    """
    paths = [folder / name for name in FILES]
    write_json(paths[0], dict(found))
    write_text(paths[1], markdown(found))
    draw(found, paths[2])
    return paths


def table(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows, as text, cheapest first; columns that nothing is known for are left out."""
    rows = found["encoders"]
    name = NAMES[found["headline"]]
    header = ["encoder", "weights", "recipe, epochs", f"{name} (95 %)", f"against {found['own']}", "GMAC/window"]
    body = [
        [
            row["encoder"],
            _source(row["weights"]),
            f"{row['recipe']}, {row['epochs']}",
            _interval(row),
            _interval(row["difference"], signed=True) if "difference" in row else "",
            figures(row["macs"] / 1e9),
        ]
        for row in rows
    ]
    for key, title in (("windows_per_second", "windows/s"), ("hours", "hours"), ("money", "cost")):
        if any(row[key] is not None for row in rows):
            header.append(title)
            for row, line in zip(rows, body, strict=True):
                about = "~" if key == "windows_per_second" and not row["measured"] else ""
                line.append("" if row[key] is None else about + figures(row[key]))
    return header, body


def markdown(found: Mapping[str, Any]) -> str:
    """The table, the recommendation and what to beware of."""
    header, body = table(found)
    lines = [f"# {found['project']}: encoders compared on {found['split']}", ""]
    lines += [_row(header), _row(["---"] * len(header)), *map(_row, body), ""]
    area = f", {found['area_km2']:,.1f} km²" if found["area_km2"] is not None else ""
    lines += [
        f"Training set {found['dataset'][:12]}, {found['blocks']} blocks of ground{area}. {found['note']}".strip()
    ]
    lines += ["", f"**{found['recommendation']['sentence']}**", "", "![cost and score](comparison.png)", ""]
    return "\n".join(lines)


def draw(found: Mapping[str, Any], path: Path) -> None:
    """The plot, as a PNG: cost on a logarithmic axis, the sizes of a family joined by a line."""
    from matplotlib.figure import Figure

    rows = [row for row in found["encoders"] if row["value"] is not None]
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axis = figure.subplots()
    families: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        families.setdefault(row["encoder"].rpartition("-")[0], []).append(row)
    for family, members in families.items():
        colour = FAMILY_COLOURS.get(family, "#555555")
        costs = [row["macs_per_km2"] / 1e9 for row in members]
        values = [row["value"] for row in members]
        axis.plot(costs, values, color=colour, marker="o", linewidth=1.6, markersize=8, label=family, zorder=3)
        for row, cost, value in zip(members, costs, values, strict=True):
            if row["low"] is not None:
                axis.plot([cost, cost], [row["low"], row["high"]], color=colour, linewidth=1, alpha=0.6, zorder=2)
            if row["random"]:
                axis.plot([cost], [value], color="white", marker="o", markersize=4, zorder=4)
            size = row["encoder"].rpartition("-")[2]
            axis.annotate(size, (cost, value), (7, 5), textcoords="offset points", fontsize=9, color=colour)
    if any(row["random"] for row in rows):
        axis.plot([], [], "o", color="#555555", markerfacecolor="white", markersize=7, label="hollow: random weights")
    if rows:
        costs = [row["macs_per_km2"] / 1e9 for row in rows]
        axis.set(xscale="log", xlim=(min(costs) / 1.6, max(costs) * 2))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.legend(frameon=False, fontsize=9, loc="lower left")
    name = NAMES[found["headline"]]
    axis.set(xlabel="compute: GMAC per km², less is cheaper", ylabel=f"{name} on {found['split']}, with 95 % intervals")
    axis.set_title(f"{found['project']}: what each encoder costs and is worth", fontsize=11, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, zorder=0)
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=140, metadata={"Software": None})


def _source(weights: str) -> str:
    """Where weights come from, without a place on this machine."""
    return Path(weights).name if Path(weights).is_absolute() else weights


def _interval(values: Mapping[str, Any], *, signed: bool = False) -> str:
    if values["value"] is None:
        return "-"
    shape = "+.3f" if signed else ".3f"
    text = format(values["value"], shape)
    return text if values["low"] is None else f"{text} ({values['low']:{shape}} to {values['high']:{shape}})"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
