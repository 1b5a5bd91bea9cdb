"""Reading a training set against one plain array file, and the memory of preprocessing as the set grows.

    OMP_NUM_THREADS=1 python benchmarks/training_set.py

Reads: batches of 8 random windows (12 timesteps x 12 bands x 64 px and x 32 px, uint16) as training takes them
(imagery, masks, dates and targets, stacked), against copying the same from memory-mapped .npy files, and against the
imagery alone from one. All lie in the page cache. Memory: peak of a process that exports and preprocesses 1x and 16x
the windows (with it the libraries, Great Expectations above all).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import harness
import numpy as np

from olmoearth_core.dataset.cubes import Composed, Layout, TaskLayout, Truth, create_cubes, open_cubes
from olmoearth_core.grid import Grid
from olmoearth_core.imagery.cube import Cube

GRID = Grid("EPSG:32631")
BANDS = tuple(f"B{k}" for k in range(12))
BATCH, STEPS = 8, 12


def main() -> None:
    """Measure, keep the results, write the section of docs/benchmarks.md."""
    rows = [_reads(size, count) for size, count in ((64, 512), (32, 2048))]
    memory = [json.loads(_peak(windows)) for windows in (64, 1024, 4096)]
    harness.write("training-set", rows, memory=memory)
    table = harness.markdown(
        [
            "window",
            "imagery alone, windows/s",
            "all from plain files",
            "training set",
            "ratio",
            "ratio to imagery alone",
        ],
        [
            [
                f"{r['size']} px",
                f"{r['imagery']:,.0f}",
                f"{r['plain']:,.0f}",
                f"{r['training_set']:,.0f}",
                f"{r['ratio']:.2f}",
                f"{r['ratio_to_imagery']:.2f}",
            ]
            for r in rows
        ],
    )
    peaks = ", ".join(f"{m['windows']} windows {m['peak_mb']} MB" for m in memory)
    text = (
        "Batches of 8 random windows (12 timesteps, 12 bands) as training takes them, with masks, dates and targets, "
        "against copying the same from memory-mapped .npy files, and the imagery alone from one; CPU time, medians of "
        f"interleaved repeats. The goal: 0.8.\n\n{table}\nPeak memory of a process that exports and preprocesses, the "
        f"libraries included: {peaks}. Composing takes a shard (64 MiB) and the blocks it reads, the label report a "
        "bounded sample (about 0.6 GB); files that are mapped into memory count as well.\n"
    )
    harness.put_section("training-set", "Training set", text)
    print(text)


def _window(size: int, seed: int) -> Composed:
    random = np.random.default_rng(seed)
    box = GRID.box(0, 0, size, size)
    dates = np.arange("2023-01", "2024-01", dtype="datetime64[M]").astype("datetime64[D]")
    cube = Cube(
        "sentinel2_l2a",
        BANDS,
        random.integers(1, 9000, (STEPS, len(BANDS), size, size)).astype(np.uint16),
        np.ones((STEPS, size, size), np.uint8),
        np.full((STEPS, size, size), 19000, np.int32),
        dates,
        box,
    )
    return Composed({"sentinel2_l2a": cube}, {"main": Truth(np.zeros((size, size), np.uint8))})


def _write(folder: Path, size: int, count: int) -> None:
    tasks = {"main": TaskLayout("segmentation", ("a", "b"))}
    layout = Layout(GRID, size, STEPS, tasks, {"sentinel2_l2a": BANDS}, {"sentinel2_l2a": "uint16"})
    cubes = create_cubes(folder / "cubes.zarr", layout, count)
    for first in range(0, count, layout.shard_windows):
        cubes.write_shard(first, [_window(size, k) for k in range(first, min(first + layout.shard_windows, count))])


def _reads(size: int, count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, size, count)
        cubes = open_cubes(folder / "cubes.zarr")
        np.save(folder / "plain.npy", np.stack([s.inputs["sentinel2_l2a"] for s in cubes.read(range(count))]))
        plain = np.load(folder / "plain.npy", mmap_mode="r")
        parts = {"valid": "valid", "dates": "dates", "target": "target"}
        for part in parts:
            values = [
                s.valid["sentinel2_l2a"] if part == "valid" else getattr(s, part) for s in cubes.read(range(count))
            ]
            np.save(folder / f"{part}.npy", np.stack(values))
        others = [np.load(folder / f"{part}.npy", mmap_mode="r") for part in parts]
        order = np.random.default_rng(0).permutation(count).reshape(-1, BATCH)

        def from_set() -> None:
            for rows in order:
                samples = cubes.read(rows.tolist())
                for part in (
                    [s.inputs["sentinel2_l2a"] for s in samples],
                    [s.valid["sentinel2_l2a"] for s in samples],
                    [s.dates for s in samples],
                    [s.target for s in samples],
                ):
                    np.stack(part)

        def from_file() -> None:
            for rows in order:
                np.stack([plain[row] for row in rows])

        def from_files() -> None:
            for rows in order:
                for file in (plain, *others):
                    np.stack([file[row] for row in rows])

        ways = {"imagery": from_file, "plain": from_files, "training_set": from_set}
        _, cpu = harness.interleave(ways, repeats=9)
        return {
            "size": size,
            "plain": count / float(np.median(cpu["plain"])),
            "training_set": count / float(np.median(cpu["training_set"])),
            "imagery": count / float(np.median(cpu["imagery"])),
            "ratio": harness.ratio(cpu, "plain", "training_set"),
            "ratio_to_imagery": harness.ratio(cpu, "imagery", "training_set"),
        }


def _peak(windows: int) -> str:
    """Peak memory of a fresh process that exports and preprocesses `windows` windows of 64 px, as JSON."""
    code = "import sys; sys.path[:0] = sys.argv[2:]; import training_set; training_set.make_set(int(sys.argv[1]))"
    here = Path(__file__).resolve().parent
    call = [sys.executable, "-c", code, str(windows), str(here), str(here.parent / "tests")]
    return subprocess.run(call, check=True, capture_output=True, text=True).stdout.splitlines()[-1]


def make_set(windows: int) -> None:
    """Export and preprocess `windows` (a square number) windows of 64 px of one scene; print this process's peak."""
    import shapely
    from rasters import CRS, LEFT, TOP, Layer, StacScene
    from shore import DATE, write_shore

    from olmoearth_core.progress import Silent
    from olmoearth_core.stage import run_stage
    from olmoearth_core.stages import STAGES

    edge = round(windows**0.5) * 64
    random = np.random.default_rng(0)
    left, top = LEFT // 640 * 640 + 640, TOP // 640 * 640
    layers = {
        band: Layer(random.integers(200, 3000, (edge, edge)).astype(np.uint16), 10.0, left, top, CRS)
        for band in ("B02", "B03", "B04", "B08")
    }
    half = edge * 5
    labels = [
        (shapely.box(left, top - edge * 10, left + half, top), "land", DATE),
        (shapely.box(left + half, top - edge * 10, left + edge * 10, top), "water", DATE),
    ]
    with tempfile.TemporaryDirectory() as folder:
        changes = {"model.window_size": 64, "map.tile_size": 64, "dataset.split.block_size": 640}
        project = write_shore(Path(folder), changes, scenes=[StacScene("A", DATE, layers)], labels=labels)
        for name in ("export", "preprocess"):
            run_stage(STAGES[name], STAGES, project, Silent())
    status = Path("/proc/self/status").read_text()
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    print(json.dumps({"windows": windows, "peak_mb": peak // 1024}))


if __name__ == "__main__":
    main()
