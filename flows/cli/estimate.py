"""`olmoearth estimate`: tokens, compute, time and money, before anything is spent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.output import JsonOption, console, print_json, side_console

if TYPE_CHECKING:
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
    """Estimate what mapping costs, for each encoder: per window, per km², and for an area."""
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
    if area is None and loaded is not None:
        area = area_km2(loaded)
    every = [name for name in CATALOGUE if set(work.modalities) <= set(named(name).band_sets)]
    names = every if encoders == "all" else [name.strip() for name in encoders.split(",")]
    calibrate = (loaded is not None or price is not None) if measure is None else measure
    if calibrate and not as_json:
        side_console().print("Measuring windows/s on this device: up to a minute ...", style="dim")
    rows = cost.estimate(names, work, area_km2=area, price_per_hour=price, calibrate=calibrate)
    if plot is not None:
        cost.plot(rows, plot)
    if as_json:
        print_json({"project": loaded and loaded.config.name, "area_km2": area, "rows": [_row(row) for row in rows]})
    else:
        _show(rows, work, loaded, area, plot)


def _workload(project: Project | None, given: dict[str, Any]) -> Workload:
    from dataclasses import replace

    from olmoearth_core.models.cost import Workload, workload_of

    return replace(workload_of(project), **given) if project else Workload(**given)


def area_km2(project: Project) -> float:
    """The area that a project maps, in square kilometres.

    Raises:
        LabelError, MappingError: its file cannot be used.
    """
    from olmoearth_core.inference.area import load_areas

    config = project.config
    where = config.map.area
    areas = load_areas(project.path(where), where, crs=config.imagery.crs, resolution=config.imagery.resolution)
    return float(sum(part.area for area in areas for part in area.parts)) / 1e6


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


def _show(rows: list[Estimate], work: Workload, project: Project | None, area: float | None, plot: Path | None) -> None:
    from rich.table import Table

    from olmoearth_core.models import cost

    out = console()
    title = f"{project.config.name}: " if project else ""
    title += f"windows of {work.window_size} px, patches of {work.patch_size} px, timesteps: {work.timesteps}"
    if area is not None:
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
    elif area is None:
        out.print("--area KM2 adds hours, and money with --price PER_HOUR.", highlight=False)
    if plot is not None:
        out.print(f"Plot: {plot}", highlight=False, soft_wrap=True)
