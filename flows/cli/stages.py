"""`olmoearth run` and one command per stage."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.output import JsonOption, ProjectArgument, console, print_json, progress

if TYPE_CHECKING:
    from olmoearth_core.project import Project

_HELP = {
    "export": "Fetch what the training windows need from the catalogue: frozen scene list and raw pixels.",
    "preprocess": "Compose cubes, rasterise labels, split, check: the versioned training set.",
    "finetune": "Fine-tune the encoder on the training set; registers a model version.",
    "infer": "Map the area tile by tile.",
    "postprocess": "Mosaic the tiles into the map: COG, polygons, areas, STAC Item, preview.",
}

RefreshOption = Annotated[
    bool, typer.Option("--refresh", help="Ask the catalogue again: for new scenes, and for assets that failed.")
]

RetryOption = Annotated[bool, typer.Option("--retry-failed", help="Try the tiles again that could not be mapped.")]

ProcessesOption = Annotated[
    int, typer.Option(help="Processes that compute tiles of the map, each with the model; they change no pixel.", min=1)
]

EngineOption = Annotated[
    str | None,
    typer.Option(
        help="Who computes tiles of the map: local, processes, or dask (OLMOEARTH_DASK_SCHEDULER, else a temporary "
        "cluster of --processes). Without it: processes where there are several."
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(run)
    for name, text in _HELP.items():
        app.command(name, help=text)(infer if name == "infer" else _stage_command(name))


def run(
    project: ProjectArgument = Path(),
    until: Annotated[str, typer.Option(help="Last stage to run.")] = "postprocess",
    refresh: RefreshOption = False,
    retry_failed: RetryOption = False,
    engine: EngineOption = None,
    processes: ProcessesOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Run the whole lifecycle; stages that are up to date are skipped."""
    from flows import door
    from flows.engines import check_engine
    from flows.run import run_lifecycle
    from olmoearth_core.project import load_project

    loaded = load_project(project)
    door.check_stage(until)
    check_engine(engine, processes)
    with progress(as_json) as listener:
        if retry_failed:
            door.retry_failed(loaded, listener)
        results = run_lifecycle(loaded, listener, until=until, refresh=refresh, engine=engine, processes=processes)
    if as_json:
        print_json({"project": loaded.config.name, "stages": results})
    else:
        show_results(loaded.root, results)
        _tell_what_to_commit(loaded)


def infer(
    project: ProjectArgument = Path(),
    refresh: RefreshOption = False,
    retry_failed: RetryOption = False,
    engine: EngineOption = None,
    processes: ProcessesOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Map the area tile by tile; of a run that was stopped, the tiles that are missing."""
    _run_one(
        "infer",
        project,
        refresh=refresh,
        retry_failed=retry_failed,
        engine=engine,
        processes=processes,
        as_json=as_json,
    )


def _stage_command(name: str) -> Callable[..., None]:
    def command(project: ProjectArgument = Path(), refresh: RefreshOption = False, as_json: JsonOption = False) -> None:
        _run_one(name, project, refresh=refresh, as_json=as_json)

    return command


def _run_one(
    name: str,
    project: Path,
    *,
    refresh: bool,
    as_json: bool,
    retry_failed: bool = False,
    engine: str | None = None,
    processes: int = 1,
) -> None:
    from flows import door
    from olmoearth_core.project import load_project

    loaded = load_project(project)
    with progress(as_json) as listener:
        if refresh:
            door.refresh(loaded, listener)
        if retry_failed:
            door.retry_failed(loaded, listener)
        result = door.describe(door.run_stage(loaded, name, progress=listener, engine=engine, processes=processes))
    if as_json:
        print_json(result)
    else:
        show_results(loaded.root, [result])


def _tell_what_to_commit(project: Project) -> None:
    """Name the files that belong in the project's git repository and are not there as they are now."""
    from registry.versioning.dvc import to_keep

    if names := to_keep(project):
        files = shlex.join(names)
        text = f"Commit:   cd {shlex.quote(str(project.root))} && git add {files} && git commit -m 'A map'"
        console().print(text, highlight=False, markup=False, soft_wrap=True)


def show_results(root: Path, results: list[dict[str, Any]]) -> None:
    """Print what was done and what to do next."""
    from flows.report import areas_table, reports, scores_lines, stages_table, summary_lines, warning_lines

    out = console()
    last = results[-1]
    idle = all(result["skipped"] for result in results)
    if idle:
        until = "the map" if last["stage"] == "postprocess" else last["stage"]
        out.print(f"Nothing to do: everything up to {until} is up to date.", highlight=False)
    else:
        out.print(stages_table(results))
    for result in results:
        scores = [] if idle and len(results) > 1 else scores_lines(result)
        for line in (*scores, *warning_lines(result)):
            out.print(line, highlight=False, markup=False)
    for result in results:
        for page in reports(result):
            name = {"preprocess": "Training set:", "finetune": "Model:"}[result["stage"]]
            out.print(f"{name} {root / page}", highlight=False, soft_wrap=True)
    if not idle:
        summary = dict(last["summary"])
        if areas := summary.pop("areas", None):
            out.print(areas_table(areas))
        for line in summary_lines({**last, "summary": summary}):
            out.print(line, highlight=False, markup=False)
    if last["stage"] == "postprocess":
        folder = root / last["folder"]
        first = min(folder.glob("map*.tif"))  # of several zones, over which map.gti.gpkg lies
        opened = first if first.name == "map.tif" else folder / "map.gti.gpkg"
        out.print(f"\nMap:      {opened}", highlight=False, soft_wrap=True)
        out.print(f"Preview:  {folder / 'preview.png'}", highlight=False, soft_wrap=True)
        out.print(f"Next:     olmoearth audit {first}", highlight=False, soft_wrap=True)
