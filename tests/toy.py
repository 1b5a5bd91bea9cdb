"""A lifecycle of three small stages, real in all but what they compute. Also a program, for tests that kill it.

    python toy.py FOLDER [STAGE ...]

Environment: TOY_LOG names a file that gets a line for each piece of work; TOY_STOP makes the program halt at a place:
"part:2" (gather has made two parts), "worked" (a stage function has returned), "rename:N" and "renamed:N" (before and
after the Nth rename).
"""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from olmoearth_core.manifest import SCRATCH, damage, read_manifest
from olmoearth_core.progress import Progress, Silent
from olmoearth_core.project import Project, load_project
from olmoearth_core.stage import Stage, StageResult, StageRun, run_stage
from olmoearth_core.store import PARTIAL, write_text

CONFIG: dict[str, Any] = {
    "name": "toy",
    "task": {"classes": [{"name": "land", "color": "#aaaaaa"}, {"name": "water", "color": "#0000ff"}]},
    "labels": {"files": ["labels/water.geojson"]},
    "imagery": {"catalogue": "catalogue.json", "framing": {"kind": "period"}},
    "dataset": {},
    "model": {"patch_size": 4, "window_size": 64},
    "training": {},
    "map": {"area": "area.geojson", "date": "2021-07-16"},
}
"""A valid project.yaml with every default left out."""


def with_changes(changes: dict[str, Any]) -> dict[str, Any]:
    """CONFIG with some keys ("training.seed") changed."""
    config: Any = copy.deepcopy(CONFIG)
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = config
        for name in sections:
            section = section[int(name)] if isinstance(section, list) else section.setdefault(name, {})
        section[int(last) if isinstance(section, list) else last] = copy.deepcopy(value)
    return config


def write_project(folder: Path, changes: dict[str, Any] | None = None, numbers: str = "1 2 3 4 5 6") -> Project:
    """A project folder for the toy stages."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "project.yaml").write_text(yaml.safe_dump(with_changes(changes or {})))
    if not (folder / "numbers.txt").exists() or (folder / "numbers.txt").read_text() != numbers:
        (folder / "numbers.txt").write_text(numbers)
    return load_project(folder)


def _log(line: str) -> None:
    if path := os.environ.get("TOY_LOG"):
        with Path(path).open("a") as file:
            file.write(f"{line}\n")


def _halt(place: str) -> None:
    if os.environ.get("TOY_STOP") == place:
        print(place, flush=True)
        time.sleep(60)


def gather(run: StageRun) -> dict[str, Any]:
    """One file a number, times the window size; goes on where an earlier run was killed."""
    numbers = run.files["numbers"].read_text().split()
    for i, number in enumerate(numbers):
        _halt(f"part:{i}")
        part = run.out / "parts" / f"{i}.txt"
        if not part.exists():
            _log(f"part {i}")
            write_text(part, str(int(number) * run.project.config.model.window_size))
        (run.scratch / "journal").write_text(f"{i}\n")
    (run.out / f"killed.tif{'.partial'}").write_text("what a killed writer leaves")
    _halt("worked")
    return {"parts": len(numbers)}


def total(run: StageRun) -> dict[str, Any]:
    """The sum of the parts, in hundreds: small changes of the numbers make no other total."""
    _log("total")
    parts = sorted((run.upstream["gather"].folder / "parts").iterdir())
    hundreds = sum(int(part.read_text()) for part in parts) // 100
    write_text(run.out / "total.txt", f"{hundreds + run.project.config.training.seed}\n")
    return {"hundreds": hundreds}


def report(run: StageRun) -> dict[str, Any]:
    """A sentence."""
    _log("report")
    text = (run.upstream["total"].folder / "total.txt").read_text()
    write_text(run.out / "report.txt", f"{run.project.config.name}: {text}")
    return {}


def _numbers(project: Project, _progress: Progress) -> dict[str, Path]:
    return {"numbers": project.root / "numbers.txt"}


def stages(gather_version: int = 1) -> dict[str, Stage]:
    """The toy table."""
    return {
        "gather": Stage(
            name="gather",
            version=gather_version,
            run=gather,
            settings=lambda p: {"window_size": p.config.model.window_size},
            files=_numbers,
            place=lambda _project, _key: "data/gather",
        ),
        "total": Stage(
            name="total",
            version=1,
            run=total,
            settings=lambda p: {"seed": p.config.training.seed},
            after=("gather",),
            place=lambda _project, key: f"totals/{key[:12]}",
        ),
        "report": Stage(
            name="report",
            version=1,
            run=report,
            settings=lambda p: {"name": p.config.name},
            after=("total",),
            place=lambda project, key: f"reports/{project.config.name}-{key[:8]}",
        ),
    }


def run_all(project: Project, table: dict[str, Stage] | None = None) -> dict[str, StageResult]:
    """Run the toy lifecycle."""
    table = table or stages()
    return {name: run_stage(stage, table, project, Silent()) for name, stage in table.items()}


def _die_at_rename(count: int, *, after: bool) -> None:
    rename, seen = Path.rename, []

    def counted(self: Path, target: Path) -> Path:
        seen.append(target)
        done = rename(self, target) if after or len(seen) < count else target
        if len(seen) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    Path.rename = counted  # type: ignore[method-assign]


def ran(project: Project, **options: Any) -> list[str]:
    """The names of the stages that ran, not skipped."""
    return [name for name, result in run_all(project, **options).items() if not result.skipped]


def flip(path: Path) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


def start(folder: Path, stop: str, *stages: str) -> subprocess.Popen[str]:
    """Begin the toy program in `folder`, to halt at `stop`."""
    env = {**os.environ, "TOY_STOP": stop}
    return subprocess.Popen([sys.executable, __file__, folder, *stages], env=env, stdout=subprocess.PIPE, text=True)


def kill_at(folder: Path, stop: str, *stages: str) -> None:
    """Run the toy program in `folder` and end it with SIGKILL at `stop`."""
    with start(folder, stop, *stages) as process:
        assert process.stdout is not None
        if not stop.startswith("rename"):  # there it kills itself
            assert process.stdout.readline().strip() == stop
            process.kill()
        assert process.wait(30) == -signal.SIGKILL


def assert_nothing_half(project: Project) -> None:
    """Whatever stands in place is whole."""
    for folder in [project.root / "data" / "gather", *project.root.glob("totals/*"), *project.root.glob("reports/*")]:
        if folder.exists():
            manifest = read_manifest(folder)
            assert manifest is not None
            assert damage(folder, manifest) == []
    assert not (project.root / "data" / "gather" / SCRATCH).exists()


def assert_clean(project: Project) -> None:
    """Nothing is left over from the kill."""
    assert list(project.root.rglob(f"*{PARTIAL}")) == []
    assert list(project.root.rglob(SCRATCH)) == []
    assert [p for name in ("work", "trash") for p in (project.state / name).glob("*")] == []


if __name__ == "__main__":
    place, _, number = os.environ.get("TOY_STOP", "").partition(":")
    if place.startswith("rename"):
        _die_at_rename(int(number), after=place == "renamed")
    loaded = load_project(Path(sys.argv[1]))
    for stage_name in sys.argv[2:] or stages():
        run_stage(stages()[stage_name], stages(), loaded, Silent())
