"""The seam score of maps by a trained model: blended as projects are by default, and windows pasted side by side.

    python benchmarks/seams.py PROJECT DATE [DATE ...]

PROJECT has a trained model (`make reservoir`). Probabilities of a small map vary by chance, so several days are mapped
and their pairs of pixels counted together.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from datetime import date
from pathlib import Path

import harness
import numpy as np

from olmoearth_core.imagery.search import freeze_map_scenes
from olmoearth_core.inference.infer import infer
from olmoearth_core.inference.seams import Seams, seam_sums
from olmoearth_core.manifest import read_manifest
from olmoearth_core.progress import Silent
from olmoearth_core.project import Project, load_project
from olmoearth_core.stage import Meter, StageRun, Upstream

OVERLAPS = (0.25, 0.0)


def main(folder: Path, days: list[date]) -> None:
    """Measure, keep the results, write the section of docs/benchmarks.md."""
    project = load_project(folder)
    rows = []
    for overlap in OVERLAPS:
        found = Seams.of(np.sum([_sums(project, day, overlap) for day in days], axis=0))
        row = {"overlap": overlap, "score": found.score, "patch_score": found.patch_score, "pairs": found.pairs}
        moved = {"mean": float(np.mean(found.elsewhere)), "sd": float(np.std(found.elsewhere))}
        rows.append({**row, "elsewhere": moved, "rank": found.rank})
    harness.write("seams", rows, project=project.config.name, days=[str(day) for day in days], goal=1.05)
    header = ["map.overlap", "seam score", "moved elsewhere", "as high elsewhere", "against patches", "pairs"]
    body = [
        [
            f"{row['overlap']:g}",
            f"{row['score']:.3f}",
            f"{row['elsewhere']['mean']:.3f} ± {row['elsewhere']['sd']:.3f}",
            f"{100 * row['rank']:.0f} %",
            f"{row['patch_score']:.3f}",
            f"{row['pairs']:,}",
        ]
        for row in rows
    ]
    table = harness.markdown(header, body)
    over = f"Over {len(days)} days of the project {project.config.name}"
    text = (
        f"{table}\n{over}. The goal: at most 1.05; an overlap of 0 is hard pasting. Moved elsewhere: the score had all "
        "edges lain some pixels further (mean and standard deviation over all such places), where no edges are: what "
        "chance makes of a map of this size; and the share of places with a score as high."
    )
    harness.put_section("seams", "Seams", text)
    print(table)


def _sums(project: Project, day: date, overlap: float) -> np.ndarray:
    settings = project.config.map.model_copy(update={"date": day, "overlap": overlap})
    there = Project(project.root, project.config.model_copy(update={"map": settings}))
    model = max(path for path in project.root.glob("models/*") if read_manifest(path))
    manifest = read_manifest(model)
    assert manifest is not None
    area = there.config.map.area
    with tempfile.TemporaryDirectory() as folder:
        made = shutil.ignore_patterns("tiles", "maps", "data", ".git", ".dvc", ".olmoearth")
        shutil.copytree(project.root, Path(folder) / "p", ignore=made, symlinks=True)
        there = Project(Path(folder) / "p", there.config)
        files = {area: there.path(area), "scenes": freeze_map_scenes(there, Silent())}
        out = there.root / "tiles" / "once"
        out.mkdir(parents=True)
        infer(StageRun(there, out, {"finetune": Upstream(model, manifest)}, files, Silent(), Meter(), "1" * 64))
        return seam_sums(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [date.fromisoformat(day) for day in sys.argv[2:]])
