"""The whole mapping pipeline against the bare encoder and head, on the same windows of a simulated region.

    OMP_NUM_THREADS=1 python benchmarks/mapping.py

Pipeline: plan to finished tiles on disk (reading COGs, composing six two-monthly composites, windows of 64 px with 25 %
overlap, blending, writing), the model loaded anew. Bare: the same batches, ready in memory, through the same loaded
model. One thread computes; the pipeline may use the other core to read. Peak memory: of a process that maps 1x and 16x
the area, of the same imagery, in tiles of 256 px. Windows: of the plan of an area over two UTM zones and 50 tiles or
more (no model needed: `python benchmarks/mapping.py windows` tells only these).
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness
import yaml
from shapely import affinity
from shapely.geometry import Point, mapping, shape
from wide_world import widen

from olmoearth_core.imagery.search import freeze_map_scenes
from olmoearth_core.inference.area import load_areas
from olmoearth_core.inference.infer import infer
from olmoearth_core.inference.outlook import map_outlook, timesteps_with_scenes
from olmoearth_core.inference.plan import map_layout, plan_tiles
from olmoearth_core.manifest import Manifest, describe_outputs, write_manifest
from olmoearth_core.models import build_encoder
from olmoearth_core.models.card import BaseWeights, HeadSpec, ModelCard, TaskCard, TrainingSet
from olmoearth_core.models.cost import measure, workload_of
from olmoearth_core.models.model_folder import read_card, save_model
from olmoearth_core.models.predictor import build_predictor
from olmoearth_core.progress import Silent
from olmoearth_core.project import Project, load_project
from olmoearth_core.simulate import simulate_world
from olmoearth_core.stage import Meter, StageRun, Upstream

SIZE = 504
"""Edge in pixels of what is simulated."""
ENCODERS = {"v1.1-nano": 4, "v1.1-tiny": 2, "v1.1-base": 1}
"""How often it is repeated along both axes: so that each takes some tens of seconds."""
GOALS = {"v1.1-nano": 0.8, "v1.1-tiny": 0.9, "v1.1-base": 0.9}
BANDS = ("B02", "B03", "B04", "B08")
CLASSES = [{"name": "field", "color": "#f2c14e"}, {"name": "wood", "color": "#2f6b3c"}]


def main() -> None:
    """Measure, keep the results, write the section of docs/benchmarks.md."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            _throughput(make_project(Path(folder) / name, name, SIZE, repeated=times), name)
            for name, times in ENCODERS.items()
        ]
    peaks = [_peak(share) for share in (0.25, 1)]
    windows = plan_windows()
    harness.write("mapping", rows, memory=peaks, windows=windows)
    table = harness.markdown(
        [
            *("encoder", "windows", "pipeline, windows/s", "bare, windows/s", "ratio", "goal", "ratio by CPU time"),
            *("computed / distinct", "estimated / device time"),
        ],
        [
            [
                row["encoder"],
                str(row["windows"]),
                f"{row['pipeline']:.1f}",
                f"{row['bare']:.1f}",
                f"{row['ratio']:.2f}",
                str(GOALS[row["encoder"]]),
                f"{row['cpu_ratio']:.2f}",
                f"{row['computed'] / row['windows']:.2f}",
                f"{row['estimate_ratio']:.2f}",
            ]
            for row in rows
        ],
    )
    memory = ", ".join(f"{peak['pixels']:,} pixels {peak['peak_mb']:.0f} MB" for peak in peaks)
    text = (
        f"{table}\n\nBy CPU time the pipeline's reading, blending and writing count, which go on beside the computing. "
        "Estimated: what `olmoearth estimate` says of the device time (goal: within 25 %).\n\n"
        f"Peak memory of a process: {memory}. The goal: within 10 %.\n\n{_told(windows)}"
    )
    harness.put_section("mapping", "Mapping", text)
    print(table, memory, _told(windows), sep="\n")


def plan_windows() -> dict[str, Any]:
    """Windows of a plan over two zones: distinct ones, those of the lattice that hold a pixel of the area (counted from
    its pixels), and what all tiles compute together. 64 px, 25 % overlap, tiles of 1,024 px."""
    layout = map_layout(1024, 64, 8, 0.25)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "area.geojson"
        outline = affinity.scale(Point(6, 45).buffer(1, 64), 1.15, 0.17)
        path.write_text(json.dumps(mapping(outline)))
        areas = load_areas(path, path.name, crs=None, resolution=10.0)
    tiles, distinct = plan_tiles(areas, layout)
    held: set[tuple[str, int, int]] = set()
    for area in areas:
        for tile in (tile for tile in tiles if tile.crs == area.grid.crs):
            box = area.grid.box(tile.column, tile.row, tile.width, tile.height)
            mask = area.mask(box)
            held |= {
                (tile.crs, w.column, w.row) for w in layout.lattice.boxes(box) if mask[w.cut(box).slices_in(box)].any()
            }
    return {
        "zones": len(areas),
        "tiles": len(tiles),
        "distinct": distinct,
        "touching": len(held),
        "computed": sum(tile.windows for tile in tiles),
    }


def _told(windows: dict[str, Any]) -> str:
    of_lattice, of_distinct = windows["distinct"] / windows["touching"], windows["computed"] / windows["distinct"]
    return (
        f"An area over {windows['zones']} zones and {windows['tiles']} tiles of 1,024 px, windows of 64 px, 25 % "
        f"overlap: {windows['distinct']:,} distinct windows, {of_lattice:.4f} of the {windows['touching']:,} of the "
        f"lattice that hold a pixel of the area (goal: 1.00); tiles compute {of_distinct:.3f} of the distinct ones "
        "(goal: at most 1.15)."
    )


def make_project(folder: Path, encoder: str, size: int, tile_size: int = 256, repeated: int = 1) -> Project:
    """A simulated region of `size` pixels a side, `repeated` along both axes, and a model with random weights for it.

    With `size` 0 the model alone, for a project that is there.
    """
    if size:
        _write_project(folder, encoder, size, tile_size)
    if repeated > 1:
        widen(folder / "world", repeated, (*BANDS, "SCL"))
    project = load_project(folder)
    sizes = project.config.model
    card = ModelCard(
        encoder=encoder,
        base=BaseWeights(source="random", licence="not stated", seed=0),
        tasks=[
            TaskCard(
                name="main",
                kind="segmentation",
                classes=project.config.task.class_names,
                unit="",
                range=None,
                sets=None,
                head=HeadSpec(kind="upsample", hidden=32),
            )
        ],
        bands={"sentinel2_l2a": list(BANDS)},
        patch_size=sizes.patch_size,
        window_size=sizes.window_size,
        resolution=10,
        framing=project.config.imagery.framing,
        training={},
        dataset=TrainingSet(digest="none", windows={}, pixels={}),
        scores={
            "chosen_by": "nothing: the weights are random",
            **{split: {"pixels": 0, "note": "not trained"} for split in ("validation", "test")},
        },
        intended_use="Benchmarks.",
        restrictions=[],
    )
    save_model(folder / "models" / "random", build_predictor(build_encoder(encoder, seed=3), card, seed=4), card)
    return project


def _write_project(folder: Path, encoder: str, size: int, tile_size: int) -> None:
    simulate_world(folder / "world", size=size)
    config = {
        "name": "mapping",
        "task": {"classes": CLASSES},
        "labels": {"files": ["world/labels/fields.geojson"]},
        "imagery": {
            "catalogue": "world/catalog.json",
            "framing": {"kind": "period", "timesteps": 6, "days": 60},
        },
        "dataset": {},
        "model": {"encoder": encoder, "patch_size": 8, "window_size": 64},
        "training": {},
        "map": {"area": "world/area.geojson", "date": "2023-01-01", "tile_size": tile_size, "overlap": 0.25},
    }
    (folder / "project.yaml").write_text(yaml.safe_dump(config))


def _cut_area(path: Path, share: float) -> None:
    area = json.loads(path.read_text())
    [feature] = area["features"]
    outline = shape(feature["geometry"])
    west, south, _, _ = outline.bounds
    feature["geometry"] = mapping(affinity.scale(outline, share, share, origin=(west, south)))
    path.write_text(json.dumps(area))


def infer_run(project: Project, out: Path) -> StageRun:
    """What the stage infer is given."""
    out.mkdir(parents=True)
    model, area = project.root / "models" / "random", project.config.map.area
    manifest = Manifest(
        stage="finetune",
        stage_version=1,
        key="0" * 64,
        settings={},
        inputs={},
        outputs=describe_outputs(model),
        summary={},
    )
    write_manifest(model, manifest)
    files = {area: project.path(area), "scenes": freeze_map_scenes(project, Silent())}
    return StageRun(project, out, {"finetune": Upstream(model, manifest)}, files, Silent(), Meter(), "1" * 64)


def _throughput(project: Project, encoder: str) -> dict[str, Any]:
    from olmoearth_core.models.predictor import TrainedModel

    given: list[tuple[TrainedModel, tuple[Any, ...], bool]] = []
    real = TrainedModel.predict

    def watched(model: TrainedModel, *inputs: Any, whole_timesteps: bool = False) -> Any:
        given.append((model, inputs, whole_timesteps))
        return real(model, *inputs, whole_timesteps=whole_timesteps)

    TrainedModel.predict = watched  # type: ignore[method-assign]  # what the pipeline asks of the model, once
    summary = infer(infer_run(project, project.root / "tiles" / "watched"))
    TrainedModel.predict = real  # type: ignore[method-assign]
    shutil.rmtree(project.root / "tiles")
    estimated: list[float] = []
    device: list[float] = []

    def pipeline() -> None:
        run = infer_run(project, project.root / "tiles" / "again")
        infer(run)
        device.append(run.meter.device_seconds)
        shutil.rmtree(run.out)  # or the next run would take the tiles over

    def estimate() -> None:
        work = replace(workload_of(project), timesteps=timesteps_with_scenes(project))
        outlook = map_outlook(project, work, "cpu")
        speed = measure(encoder, work, at_once=outlook.at_once, task=read_card(project.root / "models" / "random").main)
        estimated.append(outlook.computed / speed.windows_per_second)

    def bare() -> None:
        for model, inputs, whole in given:
            model.predict(*inputs, whole_timesteps=whole)

    wall, cpu = harness.interleave({"pipeline": pipeline, "bare": bare, "estimate": estimate}, repeats=3)
    seen = summary["windows_seen"]
    return {
        "encoder": encoder,
        "windows": summary["windows"],
        "computed": summary["windows_computed"],
        "pipeline": seen / statistics.median(wall["pipeline"]),
        "bare": seen / statistics.median(wall["bare"]),
        "ratio": harness.ratio(wall, "bare", "pipeline"),
        "cpu_ratio": harness.ratio(cpu, "bare", "pipeline"),
        "estimate_ratio": statistics.median(estimated) / statistics.median(device),
        "seconds": wall,
        "cpu_seconds": cpu,
    }


def _peak(share: float) -> dict[str, Any]:
    told = subprocess.run([sys.executable, __file__, str(share)], check=True, capture_output=True, text=True)
    peak: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    return peak


def _map_corner(share: float) -> None:
    """Map a corner of the region, `share` of its edge, and tell the peak memory of this process."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, "make", str(share), folder], check=True)  # takes memory: elsewhere
        project = load_project(Path(folder) / "p")
        pixels = infer(infer_run(project, project.root / "tiles" / "corner"))["area_pixels"]
        # of this program alone; ru_maxrss would begin with what its parent took
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]
        print(json.dumps({"pixels": pixels, "peak_mb": peak}))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["windows"]:
            print(_told(plan_windows()))
        case ["make", share, folder]:
            project = make_project(Path(folder) / "p", "v1.1-nano", SIZE, repeated=4)
            _cut_area(project.path(project.config.map.area), float(share))
        case [share]:
            _map_corner(float(share))
        case _:
            main()
