"""`olmoearth import`: a partner's own rasters, patches and cubes, as a catalogue with labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.cli.output import JsonOption, console, file_name, print_json, progress

if TYPE_CHECKING:
    from rich.table import Table

    from olmoearth_core.importing.importing import Imported

FILES = "What the files do not say"
LABELS = "Labels"


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("import", no_args_is_help=True)(import_)


def import_(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE...",
            help="A folder of GeoTIFFs, of patches with a class each, or of cubes; or such files; or GeoJSON of "
            "the older form, whose features carry oe_start_time: annotations, their tasks, requests.",
        ),
    ],
    to: Annotated[
        Path | None, typer.Option("--to", "-o", help="Folder of the import; PROJECT/source with --project.")
    ] = None,
    project: Annotated[Path | None, typer.Option(help="Make this project folder, its project.yaml filled in.")] = None,
    kind: Annotated[
        Literal["scenes", "patches", "cubes"] | None, typer.Option(help="What a folder holds, where looking misleads.")
    ] = None,
    link: Annotated[bool, typer.Option("--link", help="Leave GeoTIFFs that need no change where they are.")] = False,
    ignore: Annotated[
        list[str] | None, typer.Option(help="A band, variable or part of a file name that is not imported; repeatable.")
    ] = None,
    bands: Annotated[
        str | None,
        typer.Option(help="Bands in the files' order: B02,B03,-,B08; '-' leaves one out.", rich_help_panel=FILES),
    ] = None,
    date: Annotated[str | None, typer.Option(help="Date of scenes that tell none.", rich_help_panel=FILES)] = None,
    dates: Annotated[
        Path | None, typer.Option(help="CSV table with the columns file, date.", rich_help_panel=FILES)
    ] = None,
    crs: Annotated[
        str | None,
        typer.Option(help="CRS of files and tables that state none: EPSG:32631.", rich_help_panel=FILES),
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="Reflectance = value x scale + offset.", rich_help_panel=FILES)
    ] = None,
    offset: Annotated[float | None, typer.Option(help="See --scale.", rich_help_panel=FILES)] = None,
    nodata: Annotated[float | None, typer.Option(help="Value that means no data.", rich_help_panel=FILES)] = None,
    level: Annotated[
        Literal["L1C", "L2A"] | None,
        typer.Option(help="Processing level; with B10 it is L1C, else L2A.", rich_help_panel=FILES),
    ] = None,
    labels: Annotated[
        list[Path] | None,
        typer.Option(
            parser=file_name,
            metavar="FILE",
            help="Vector file, CSV table or raster of labels, or a folder of such; repeatable.",
            rich_help_panel=LABELS,
        ),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", help="Values that mean a class: forest=30-100; repeatable.", rich_help_panel=LABELS),
    ] = None,
    class_property: Annotated[
        str,
        typer.Option(help="Property of vector files, or column of tables, with the class.", rich_help_panel=LABELS),
    ] = "class",
    value: Annotated[
        str | None,
        typer.Option(
            help="What was measured: property of vector files or column of tables; rasters hold it in band 1. "
            "Instead of classes, with --range.",
            rich_help_panel=LABELS,
        ),
    ] = None,
    value_range: Annotated[
        str | None,
        typer.Option("--range", help="Values that are possible: 0,100.", rich_help_panel=LABELS),
    ] = None,
    unit: Annotated[str | None, typer.Option(help="Unit of --value.", rich_help_panel=LABELS)] = None,
    label_date: Annotated[
        str | None,
        typer.Option(help="Day that labels without a date are true for: 2024-05-01.", rich_help_panel=LABELS),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put this import in the place of one of other files.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Turn GeoTIFFs, patches with a class each, NetCDF or Zarr cubes into a catalogue with labels."""
    from flows.cli.days import parse_day, parse_moment
    from olmoearth_core.errors import SourceError
    from olmoearth_core.importing.importing import Labelling, import_data
    from olmoearth_core.importing.labelling import label_files, parse_classes, parse_measured
    from olmoearth_core.importing.source import Options

    if to is None and project is None:
        raise SourceError("Name the folder of the import with --to, or make a project of it with --project.")
    options = Options(
        kind=kind,
        bands=tuple(band.strip() for band in bands.split(",")) if bands else (),
        ignore=frozenset(ignore or ()),
        date=None if date is None else parse_moment("--date", date),
        dates=dates,
        crs=crs,
        scale=scale,
        offset=offset,
        nodata=nodata,
        level=level,
        link=link,
    )
    target = to if to is not None else Path(str(project)) / "source"
    day = parse_day("--label-date", label_date)
    measured = parse_measured(value, value_range, unit, classes=bool(classes))
    labelling = Labelling(label_files(labels or ()), parse_classes(classes or ()), class_property, day, crs, measured)
    with progress(as_json) as listener:
        made = import_data(
            sources, target, options, labelling=labelling, project=project, progress=listener, again=replace
        )
    if as_json:
        print_json(_to_json(made))
    else:
        _tell(made)


def _to_json(made: Imported) -> dict[str, Any]:
    found = {key: value for key, value in vars(made).items() if key not in ("folder", "text", "days", "frame")}
    catalogue = None if made.kind == "outlines" else made.folder / "catalog.json"
    return {"folder": made.folder, "catalogue": catalogue, "first": made.days[0], "last": made.days[1], **found} | (
        {"framing": made.frame.text} if made.frame else {}
    )


def _tell(made: Imported) -> None:
    out = console()
    out.print(_table(made))
    for warning in made.warnings:
        out.print("[yellow]warning[/] ", end="")
        out.print(warning, highlight=False, markup=False, soft_wrap=True)
    if made.project is not None:
        out.print(f"Next: olmoearth validate {made.project}", highlight=False, soft_wrap=True)
    elif made.kind == "outlines":
        area, labels = made.folder / "area.geojson", made.folder / "labels"
        out.print(
            f"Next: olmoearth init NAME --area {area} --date {made.days[0]}"
            + "".join(f" --labels {path}" for path in sorted(labels.glob("*.geojson")))
            + (f"; then set imagery.framing to {made.frame.text} ({made.frame.why})" if made.frame else ""),
            highlight=False,
            soft_wrap=True,
        )
    elif made.text:
        out.print("Next: --project makes this project.yaml, with paths as seen from the folder beside the import:\n")
        out.print(made.text, highlight=False, markup=False, soft_wrap=True)
    else:
        out.print(
            f"Next: set imagery.catalogue in project.yaml to {made.folder / 'catalog.json'}; "
            "--labels adds labels, --project makes the project.",
            highlight=False,
            soft_wrap=True,
        )


def _table(made: Imported) -> Table:
    from rich.table import Table

    table = Table(title=f"Imported into {made.folder}", title_justify="left", show_header=False)
    first, last = made.days
    bands = ", ".join(f"{band} ({edge:.4g})" for band, edge in made.bands.items())
    rows = {
        "kind": made.kind,
        "scenes": f"{made.scenes} of Sentinel-2 {made.level}" if made.scenes else "",
        "dates": str(first) if first == last else f"{first} to {last}",
        "bands (pixel)": bands,
        "CRS": ", ".join(crs if crs.startswith("EPSG:") else "its own (WKT)" for crs in made.crs),
        "classes": ", ".join(f"{name} ({count})" if count else name for name, count in made.classes.items()),
        "linked": f"{made.linked} assets left where they are" if made.linked else "",
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    return table
