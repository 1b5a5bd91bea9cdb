"""`olmoearth sample` and `olmoearth assess`: numbers with errors, from a reference sample that people interpret."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.output import JsonOption, console, print_json


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(sample)
    app.command()(assess)


def sample(
    map_places: Annotated[
        list[Path],
        typer.Argument(
            metavar="MAP...", help="A map file, or its folder below maps/; several files only of one map's zones."
        ),
    ],
    size: Annotated[
        int | None, typer.Option(min=2, help="Units altogether, if --least leaves so few. Default: as --error asks.")
    ] = None,
    error: Annotated[
        float, typer.Option(min=0.001, max=0.2, help="Standard error wanted of the overall accuracy.")
    ] = 0.01,
    expected: Annotated[float, typer.Option(min=0.01, max=0.99, help="User's accuracy that is expected.")] = 0.85,
    least: Annotated[int, typer.Option(min=2, help="Units of a rare class, at least.")] = 50,
    simple: Annotated[bool, typer.Option("--simple", help="Draw from all pixels alike, not class by class.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    to: Annotated[Path | None, typer.Option(help="Folder. Default: assessments/<map id> beside maps/.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw a stratified reference sample from a map, for people to interpret."""
    from olmoearth_core.assessment import sample as sampling

    files = [path for place in map_places for path in sampling.map_files(place)]
    out = to or _beside(files[0])
    design = sampling.draw(files, out, size=size, error=error, expected=expected, least=least, simple=simple, seed=seed)
    if as_json:
        print_json(
            {"folder": str(out), **design.model_dump(mode="json", exclude={"units"}), "units": len(design.units)}
        )
        return
    told = console()
    if size is not None and len(design.units) > size:
        why = f"each class gets --least {least} units where it has them. A smaller --least draws fewer."
        told.print(f"[yellow]More than --size {size}[/]: {why}", highlight=False, soft_wrap=True)
    elif size is not None and len(design.units) < size:
        told.print(f"[yellow]Fewer than --size {size}[/]: the map has no more pixels.", highlight=False)
    told.print(f"{len(design.units)} units of {design.map_id}: {out}", highlight=False, soft_wrap=True)
    text = (
        f"Open {sampling.LAYERS} in QGIS (layers sample and pixels), write one of {', '.join(design.classes)} or "
        f"'{sampling.UNSURE}' into the column reference of each point, from better imagery than the map's and "
        f"without looking at the map; or fill in {sampling.TABLE}. Then: olmoearth assess {out}"
    )
    told.print(text, highlight=False)


def assess(
    folder: Annotated[Path, typer.Argument(help="Folder that `olmoearth sample` made.")],
    reference: Annotated[Path | None, typer.Option(help="File with the answers. Default: the sample's own.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate accuracy and the area of each class, with 95 % intervals, from an interpreted sample.

    The registry takes it down where it knows the map.
    """
    from olmoearth_core.assessment.assess import REPORT
    from olmoearth_core.assessment.assess import assess as estimate
    from registry.assessing import record_assessment
    from registry.workspace import Workspace

    result = estimate(folder, reference)
    record_assessment(Workspace.from_environment(), folder, reference or folder / result["answers"], result)
    if as_json:
        print_json(result)
    else:
        _show(result, folder / REPORT)


def _beside(path: Path) -> Path:
    """assessments/<map folder> of the project that a map lies in, or beside a file that lies elsewhere."""
    folder = path.absolute().parent
    if folder.parent.name == "maps":
        return folder.parent.parent / "assessments" / folder.name
    return folder / f"{path.stem}-sample"


def _show(result: dict[str, Any], report: Path) -> None:
    from rich.table import Table

    from olmoearth_core.assessment.report import with_interval

    out = console()
    table = Table(title=f"{result['map_id']}: {result['design']['units']} units", title_justify="left")
    table.add_column("class")
    for name in ("mapped ha", "area ha", "user's", "producer's", "units"):
        table.add_column(name, justify="right")
    for name, found in result["classes"].items():
        table.add_row(
            name,
            f"{found['mapped_hectares']:,.1f}",
            with_interval(found["area_hectares"], ",.1f"),
            with_interval(found["users_accuracy"], ".3f"),
            with_interval(found["producers_accuracy"], ".3f"),
            str(found["units"]),
        )
    out.print(table)
    out.print(f"Overall accuracy {with_interval(result['overall_accuracy'], '.3f')}; 95 % intervals.", highlight=False)
    for note in result["notes"]:
        out.print(note, highlight=False)
    out.print(f"Report: {report}", highlight=False, soft_wrap=True)
