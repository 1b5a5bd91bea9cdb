"""Mapping in small windows, as rslearn's predict was measured: whole against bare encoder in the same run, with and
without start-up, in fp32 and bf16.

    python benchmarks/mapping_crops.py [small]

Square: one of about 500 px, windows of 32 px that overlap by 4, twelve timesteps, v1.2-nano, patches of 4 px. Missing:
the same with a third of the timesteps without a scene. Crops: 64 windows of 32 px, apart. Net: in a process that has
mapped before; with start-up: a process of its own, from its start to its end.

rslearn itself cannot be installed here (it needs torchvision). Its figures (shared/facts/peers.md), from another
machine of two cores, fp32: 324 such windows 15.0 s, of which 5.6 s start-up, where the bare encoder takes 8.9 s; 64
windows apart 8.2 s. It computes missing timesteps. What it would take here is reckoned from this machine's encoder in
fp32: so many times as long as there (1.06; 1.48 in windows apart), and its start-up as it was.
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
from olmoearth_core.inference.plan import map_layout
from olmoearth_core.models.predictor import TrainedModel
from olmoearth_core.progress import Silent
from olmoearth_core.project import Project, load_project

ENCODER = "v1.2-nano"
RSLEARN = {"start": 5.6, "square": (15.0 - 5.6) / 8.9, "crops": (8.2 - 5.6) / (64 / 324 * 8.9)}
"""Seconds of its start-up, and how many times as long as its encoder it takes after that."""
RECKONED = (
    "rslearn (reckoned): what it would take here by its published overheads over the bare encoder in fp32 (1.06 times; "
    "1.48 times in windows apart; 5.6 s of start-up, from another machine of two cores), since it cannot be installed "
    "here; it computes missing timesteps. Above 1 ours is quicker."
)
CASES = ("square", "missing", "crops")


def main(*, small: bool = False) -> None:
    """Measure, keep the results, write the section of docs/benchmarks.md."""
    with tempfile.TemporaryDirectory() as folder:
        projects = {case: _project(Path(folder) / case, case, small=small) for case in CASES}
        turns = [(case, precision) for precision in ("fp32", "bf16") for case in CASES]
        rows = [_measure(projects[case], case, precision, repeats=1 if small else 3) for case, precision in turns]
    for row in rows:
        row |= _rslearn(row["case"], rows)
    harness.write("mapping_crops", rows, rslearn=RSLEARN, small=small)
    told = [
        [
            row["case"],
            row["precision"],
            str(row["windows"]),
            *(f"{row[key]:.1f}" for key in ("total", "net", "bare")),
            f"{row['net'] / row['bare']:.2f}",
            *(f"{row[f'rslearn_{key}'] / row[key]:.2f}" for key in ("net", "total")),
        ]
        for row in rows
    ]
    header = [
        "case",
        "precision",
        "windows",
        "whole, s",
        "net of start-up, s",
        "bare encoder and head, s",
        "net / bare",
    ]
    table = harness.markdown([*header, "rslearn (reckoned) / ours, net", "rslearn (reckoned) / ours, whole"], told)
    if not small:
        harness.put_section("mapping_crops", "Mapping in small windows", f"{table}\n{RECKONED}")
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


def _rslearn(case: str, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds that rslearn would take here, reckoned."""
    like = "crops" if case == "crops" else "square"
    (bare,) = (row["bare"] for row in rows if row["case"] == like and row["precision"] == "fp32")
    net = RSLEARN[like] * bare
    return {"rslearn_net": net, "rslearn_total": net + RSLEARN["start"]}


def _draw_crops(project: Project, most: int = 8) -> None:
    """Instead of the area what of every second window lies in no other one: `most` x `most` windows apart."""
    from olmoearth_core.inference.area import load_areas

    config = project.config
    layout = map_layout(config.map.tile_size, config.model.window_size, config.model.patch_size, config.map.overlap)
    where = project.path(config.map.area)
    (whole,) = load_areas(where, where.name, crs=None, resolution=10)
    box, grid, lattice = whole.bounds, Grid(whole.grid.crs), layout.lattice
    alone = lattice.size - lattice.stride
    inside = [w for w in lattice.boxes(box) if w.cut(box) == w]
    left, top = min(w.column for w in inside), min(w.row for w in inside)
    far = 2 * lattice.stride
    chosen = [
        w
        for w in inside
        if (w.column - left) % far == (w.row - top) % far == 0 and max(w.column - left, w.row - top) < most * far
    ]
    squares = [w.pad(-alone - 1).polygon for w in chosen]
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
