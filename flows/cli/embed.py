"""`olmoearth embed` and `olmoearth similar`: embeddings as a product of their own, and places like some examples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.output import JsonOption, ProjectArgument, console, print_json, progress


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(embed)
    app.command()(similar)


def embed(
    project: ProjectArgument = Path(),
    tuned: Annotated[
        bool, typer.Option("--tuned", help="By the fine-tuned encoder, not the one it began with.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="int8 (small) or float16.")] = "int8",
    as_json: JsonOption = False,
) -> None:
    """Make embeddings of the project's map area: a direction for each patch, as Cloud Optimized GeoTIFFs."""
    from flows.door import describe
    from flows.door import embed as make
    from olmoearth_core.project import load_project

    loaded = load_project(project)
    with progress(as_json) as listener:
        result = make(loaded, tuned=tuned, dtype=dtype, progress=listener)
    if as_json:
        print_json(describe(result))
        return
    made = result.manifest.summary
    out = console()
    verb = "were there already" if result.skipped else "made"
    out.print(
        f"Embeddings {verb}: {made['patches']:,} patches in {made['tiles']} tiles, {made['dimensions']} dimensions, "
        f"{made['dtype']}",
        highlight=False,
    )
    out.print(f"{result.folder}", highlight=False, soft_wrap=True)
    out.print(f"Places like some examples: olmoearth similar {result.folder} --like LON,LAT", highlight=False)


def similar(
    embeddings: Annotated[Path, typer.Argument(help="Folder that `olmoearth embed` made.")],
    like: Annotated[list[str] | None, typer.Option(help="LON,LAT of an example in degrees; repeat for more.")] = None,
    points: Annotated[Path | None, typer.Option(help="Vector file with further examples.")] = None,
    unlike: Annotated[list[str] | None, typer.Option(help="LON,LAT of a counterexample; repeat for more.")] = None,
    top: Annotated[int, typer.Option(min=1, max=10_000, help="How many places to list.")] = 100,
    apart: Annotated[float, typer.Option(min=0, help="Metres between two listed places.")] = 200.0,
    to: Annotated[Path | None, typer.Option(help="Folder for what is found. Default: similar/ here.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Find places like a few examples, from embeddings alone."""
    from olmoearth_core.embeddings import similar as search

    examples = [_point(text, "--like") for text in like or ()]
    if points is not None:
        examples += search.read_points(points)
    query = search.Query(examples, [_point(text, "--unlike") for text in unlike or ()], top, apart)
    out = to or Path("similar")
    with progress(as_json) as listener:
        found = search.similar(embeddings, query, out, listener)
    if as_json:
        print_json(found | {"folder": str(out)})
        return
    best = "" if found["best"] is None else f", the best with a similarity of {found['best']:.2f}"
    text = f"{found['places']} places{best}: {out / search.PLACES}\nPicture: {out / search.PICTURE}"
    console().print(text, highlight=False, soft_wrap=True)


def _point(text: str, option: str) -> tuple[float, float]:
    parts = text.split(",")
    try:
        lon, lat = (float(part) for part in parts)
    except ValueError:
        raise typer.BadParameter(f"{option} {text}: give longitude,latitude in degrees, such as 26.1,44.4") from None
    if not (-180 <= lon <= 180 and -90 <= lat <= 90):
        raise typer.BadParameter(f"{option} {text}: longitude is -180 to 180, latitude -90 to 90, in this order")
    return lon, lat
