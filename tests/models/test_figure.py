"""The figure and the numbers of docs/encoders.md are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from olmoearth_core.models.config import named
from olmoearth_core.models.cost import Workload, macs
from olmoearth_core.models.figure import draw

DOCS = Path(__file__).parents[2] / "docs" / "encoders.md"


def test_the_figure_is_drawn_alike_each_time(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw(tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_costs_in_the_text_are_those_of_the_formula() -> None:
    rows = re.findall(r"^\| (nano|tiny|base) \| (.+) \|$", DOCS.read_text(), flags=re.M)
    assert len(rows) == 3
    for size, cells in rows:
        said = [float(cell.rstrip("x")) for cell in cells.split(" | ")]
        for patch, (old, new, ratio) in ((8, said[:3]), (4, said[3:])):
            v1, v11 = (macs(named(f"{v}-{size}"), Workload(64, patch, 12)) / 1e9 for v in ("v1", "v1.1"))
            assert (float(f"{v1:.3g}"), float(f"{v11:.3g}"), round(v1 / v11, 1)) == (old, new, ratio)
