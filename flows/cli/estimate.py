"""`olmoearth estimate`: tokens, compute, time and money, before anything is spent."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.output import JsonOption, console, print_json, side_console

if TYPE_CHECKING:
    from olmoearth_core.inference.outlook import MapOutlook
    from olmoearth_core.models.card import TaskCard
    from olmoearth_core.models.cost import Estimate, Workload
    from olmoearth_core.project import Project


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(estimate)


def estimate(
    project: Annotated[
        Path | None,
        typer.Argument(metavar="[PROJECT]", help="Project folder; without one, the options say what."),
    ] = None,
    encoders: Annotated[str, typer.Option(help="Names, separated by commas, or 'all' that read the imagery.")] = "all",
    window: Annotated[int | None, typer.Option(help="Edge of a window in pixels.")] = None,
    patch: Annotated[int | None, typer.Option(help="Edge of a patch in pixels.")] = None,
    timesteps: Annotated[int | None, typer.Option(help="Timesteps of a window.")] = None,
    resolution: Annotated[float | None, typer.Option(help="Metres per pixel.")] = None,
    overlap: Annotated[float | None, typer.Option(help="Share of a window common with its neighbour.")] = None,
    area: Annotated[float | None, typer.Option(min=0, help="km²; the project's area when not given.")] = None,
    price: Annotated[float | None, typer.Option(min=0, help="Price of an hour of this device.")] = None,
    measure: Annotated[
        bool | None,
        typer.Option("--measure/--no-measure", help="Measure windows/s on this device; done for a project."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the family into this PNG.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate what mapping costs, for each encoder: per window, per km², and for an area; and what training took."""
    from olmoearth_core.models import cost
    from olmoearth_core.models.catalogue import CATALOGUE, named
    from olmoearth_core.project import load_project

    loaded = load_project(project or Path()) if project is not None or (Path() / "project.yaml").is_file() else None
    given = {
        "window_size": window,
        "patch_size": patch,
        "timesteps": timesteps,
        "resolution": resolution,
        "overlap": overlap,
    }
    work = _workload(loaded, {name: value for name, value in given.items() if value is not None})
    outlook = _outlook(loaded, work) if loaded is not None and area is None else None
    windows = outlook.computed if outlook else None if area is None else area * work.windows_per_km2
    every = [name for name in CATALOGUE if set(work.modalities) <= set(named(name).band_sets)]
    names = every if encoders == "all" else [name.strip() for name in encoders.split(",")]
    calibrate = (loaded is not None or price is not None) if measure is None else measure
    if calibrate and not as_json:
        side_console().print("Measuring windows/s on this device: up to a minute ...", style="dim")
    rows = cost.estimate(
        names,
        work,
        windows=windows,
        price_per_hour=price,
        calibrate=calibrate,
        at_once=outlook.at_once if outlook else None,
        task=_task(loaded) if loaded else None,
    )
    if plot is not None:
        from olmoearth_core.models.cost_plot import plot as draw

        draw(rows, plot)
    if as_json:
        km2 = outlook.km2 if outlook else area
        plan = {key: value for key, value in asdict(outlook).items() if key != "km2"} if outlook else None
        trained = loaded and _last_training(loaded)
        found = {"project": loaded and loaded.config.name, "area_km2": km2, "plan": plan, "training": trained}
        print_json({**found, "rows": [_row(row) for row in rows]})
    else:
        _show(rows, work, loaded, outlook, area, plot)


def _workload(project: Project | None, given: dict[str, Any]) -> Workload:
    from dataclasses import replace

    from olmoearth_core.inference.outlook import timesteps_with_scenes
    from olmoearth_core.models.cost import Workload, workload_of

    if project is None:
        return Workload(**given)
    return replace(workload_of(project), **{"timesteps": timesteps_with_scenes(project), **given})


def _outlook(project: Project, work: Workload) -> MapOutlook:
    from olmoearth_core.inference.outlook import map_outlook
    from olmoearth_core.models.precision import resolve_device

    return map_outlook(project, work, resolve_device("auto").type)


def _task(project: Project) -> TaskCard:
    """The head that a map of the project needs."""
    from olmoearth_core.models.card import TaskCard

    task = project.config.task
    return TaskCard(name=task.name, kind=task.kind, classes=task.class_names, unit=task.unit, range=task.range)


def _last_training(project: Project) -> dict[str, Any] | None:
    """What the training that was done last in the project cost; None where none was, or nobody measured it."""
    from olmoearth_core.monitoring.lineage import made_at, outputs
    from olmoearth_core.stage import read_record

    for model in sorted(outputs(project, "finetune"), key=made_at, reverse=True):
        cost = read_record(project, "finetune", model.manifest.key)
        if cost.get("wall_seconds") and not cost.get("resumed"):  # resumed: only the part after a stop was measured
            settings = model.manifest.settings
            return {
                "encoder": settings["model"]["encoder"],
                "epochs": settings["training"]["epochs"],
                "wall_seconds": cost["wall_seconds"],
                "device": cost.get("device"),
            }
    return None


def _show_training(project: Project) -> None:
    last = _last_training(project)
    if last is None:
        text = (
            "Training comes on top, and fetching its imagery: how long it takes depends on labels, recipe and device, "
            "and nothing was trained here yet. `olmoearth run --until finetune` measures it; then it is told here."
        )
    else:
        text = (
            f"Training comes on top: {last['encoder']} took {last['wall_seconds']:,.0f} s for {last['epochs']} epochs "
            f"here, the last time ({last['device'] or 'device not known'})."
        )
    out = console()
    out.print(text, highlight=False, soft_wrap=True)
    out.print(f"Next: `olmoearth run {os.path.relpath(project.root)}`.", highlight=False, soft_wrap=True)


def _row(row: Estimate) -> dict[str, Any]:
    speed = row.speed and {
        "windows_per_second": row.speed.windows_per_second,
        "measured": row.speed.measured,
        "device": row.speed.device,
        "precision": row.speed.precision,
    }
    return {
        "encoder": row.name,
        "tokens_per_window": row.tokens,
        "macs_per_window": row.macs,
        "tokens_per_km2": row.tokens_per_km2,
        "macs_per_km2": row.macs_per_km2,
        "speed": speed,
        "hours": row.hours,
        "money": row.money,
    }


def _show(
    rows: list[Estimate],
    work: Workload,
    project: Project | None,
    outlook: MapOutlook | None,
    area: float | None,
    plot: Path | None,
) -> None:
    from rich.table import Table

    from olmoearth_core.models import cost

    out = console()
    title = f"{project.config.name}: " if project else ""
    title += f"windows of {work.window_size} px, patches of {work.patch_size} px, timesteps: {work.timesteps}"
    if outlook is not None:
        title += f", {outlook.km2:,.1f} km²: {outlook.windows:,} windows in {outlook.tiles:,} tiles"
    elif area is not None:
        title += f", {area:,.1f} km²"
    table = Table(title=title, title_justify="left")
    header, body = cost.table(rows)
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i else "left")
    for line in body:
        own = project is not None and line[0] == project.config.model.encoder
        table.add_row(line[0] + (" (project.yaml)" if own else ""), *line[1:], style="bold" if own else None)
    out.print(table)
    if any(row.speed and not row.speed.measured for row in rows):
        out.print("~ follows from the measured ones by its MACs", highlight=False)
    if not any(row.speed for row in rows):
        out.print("--measure adds windows/s on this device, and hours where there is an area.", highlight=False)
    elif area is None and outlook is None:
        out.print("--area KM2 adds hours, and money with --price PER_HOUR.", highlight=False)
    if project is not None:
        _show_training(project)
    if plot is not None:
        out.print(f"Plot: {plot}", highlight=False, soft_wrap=True)
