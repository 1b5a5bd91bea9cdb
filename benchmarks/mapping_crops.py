"""Mapping in small windows, as rslearn's predict was measured: whole against bare encoder in the same run, with and
without start-up, in fp32 and bf16.

    python benchmarks/mapping_crops.py [small]

Square: one of about 500 px, windows of 32 px that overlap by 4, twelve timesteps, v1.2-nano, patches of 4 px. Missing:
the same with a third of the timesteps without a scene. Crops: many squares of 32 px, apart. Net: in a process that
has mapped before; with start-up: a process of its own, from its start to its end. rslearn itself cannot be installed
here (it needs torchvision); its figures, from another machine of two cores, are for such windows in fp32: 15.0 s, of
which 5.6 s start-up, and 8.9 s for the bare encoder on 324 crops (four squares of 256 px).
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import harness
import yaml
from mapping import infer_run, make_project
from rasterio.warp import transform_geom
from shapely.geometry import mapping

from olmoearth_core.grid import Grid
from olmoearth_core.imagery.search import freeze_map_scenes
from olmoearth_core.inference import infer as stage
from olmoearth_core.models.predictor import TrainedModel
from olmoearth_core.progress import Silent
from olmoearth_core.project import Project, load_project

ENCODER = "v1.2-nano"
RSLEARN = {"total": 15.0, "start": 5.6, "bare": 8.9}
CASES = ("square", "missing", "crops")


def main(*, small: bool = False) -> None:
    """Measure, keep the results, write the section of docs/benchmarks.md."""
    with tempfile.TemporaryDirectory() as folder:
        projects = {case: _project(Path(folder) / case, case, small=small) for case in CASES}
        turns = [(case, precision) for precision in ("fp32", "bf16") for case in CASES]
        rows = [_measure(projects[case], case, precision, repeats=1 if small else 3) for case, precision in turns]
    harness.write("mapping_crops", rows, rslearn=RSLEARN, small=small)
    told = [
        [
            row["case"],
            row["precision"],
            str(row["windows"]),
            *(f"{row[key]:.1f}" for key in ("total", "net", "bare")),
            f"{row['total'] / row['bare']:.2f}",
            f"{row['net'] / row['bare']:.2f}",
        ]
        for row in rows
    ]
    theirs = [RSLEARN["total"], RSLEARN["total"] - RSLEARN["start"], RSLEARN["bare"]]
    ratios = [f"{theirs[0] / theirs[2]:.2f}", f"{theirs[1] / theirs[2]:.2f}"]
    told.append(["squares, rslearn elsewhere", "fp32", "324", *(f"{t:.1f}" for t in theirs), *ratios])
    header = ["case", "precision", "windows", "whole, s", "net of start-up, s", "bare encoder and head, s"]
    table = harness.markdown([*header, "whole / bare", "net / bare"], told)
    if not small:
        harness.put_section("mapping_crops", "Mapping in small windows", table)
    print(table)


def _project(folder: Path, case: str, *, small: bool) -> Project:
    folder.mkdir()
    size, steps = (126, 4) if small else (510, 12)  # 510: the largest world that is simulated
    make_project(folder, ENCODER, size=size)
    values = yaml.safe_load((folder / "project.yaml").read_text())
    values["model"] |= {"window_size": 32, "patch_size": 4}
    values["map"]["overlap"] = 0.125
    values["imagery"]["framing"] = {"kind": "period", "timesteps": steps, "days": 30}
    (folder / "project.yaml").write_text(yaml.safe_dump(values))
    project = make_project(folder, ENCODER, size=0, tile_size=256)  # the model anew, for these sizes
    if case == "crops":
        _draw_crops(project)
    if case == "missing":
        path = freeze_map_scenes(project, Silent())
        content = json.loads(path.read_text())
        spans = project.config.imagery.framing.spans(project.config.map.date)[1::3]
        gone = [(str(span.start), str(span.end)) for span in spans]
        content["scenes"] = [s for s in content["scenes"] if not any(a <= s["datetime"][:10] < b for a, b in gone)]
        path.write_text(json.dumps(content))
    return project


def _draw_crops(project: Project, edge: int = 32, gap: int = 28) -> None:
    """Squares of `edge` pixels instead of the area, `gap` apart, as many as fit into it; 8 x 8 at most."""
    from olmoearth_core.inference.area import load_areas

    where = project.path(project.config.map.area)
    (whole,) = load_areas(where, where.name, crs=None, resolution=10)
    box, grid = whole.bounds, Grid(whole.grid.crs)
    along = range(min(8, (box.width - 4) // (edge + gap)))
    squares = [
        grid.box(box.column + 4 + i * (edge + gap), box.row + 4 + j * (edge + gap), edge, edge).polygon
        for i in along
        for j in along
    ]
    features = [
        {"type": "Feature", "properties": {}, "geometry": transform_geom(grid.crs, "EPSG:4326", mapping(square))}
        for square in squares
    ]
    where.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def _measure(project: Project, case: str, precision: str, *, repeats: int) -> dict[str, Any]:
    given: list[tuple[TrainedModel, tuple[Any, ...], bool]] = []
    real = TrainedModel.predict

    def watched(model: TrainedModel, *inputs: Any, whole_timesteps: bool = False) -> Any:
        given.append((model, inputs, whole_timesteps))
        return real(model, *inputs, whole_timesteps=whole_timesteps)

    with patch.object(TrainedModel, "predict", watched):
        summary = map_once(project, precision)

    def bare() -> None:
        for model, inputs, whole in given:
            model.predict(*inputs, whole_timesteps=whole)

    def alone() -> None:
        subprocess.run([sys.executable, __file__, "once", str(project.root), precision], check=True)

    wall, cpu = harness.interleave(
        {"net": lambda: map_once(project, precision), "bare": bare, "total": alone}, repeats=repeats, warm_up=0
    )
    return {
        "case": case,
        "precision": precision,
        "windows": summary["windows_computed"],
        **{name: statistics.median(times) for name, times in wall.items()},
        "seconds": wall,
        "cpu_seconds": cpu,
    }


def map_once(project: Project, precision: str) -> dict[str, Any]:
    """Map in this process, nothing taken over from an earlier map."""
    out = project.root / "tiles" / f"{time.monotonic_ns()}"
    with patch.object(stage, "resolve_precision", lambda *_: precision):
        summary = stage.infer(infer_run(project, out))
    shutil.rmtree(out)
    return summary


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["once", folder, precision]:
            map_once(load_project(Path(folder)), precision)
        case [*given]:
            main(small="small" in given)
