"""`olmoearth dataset`: what is in a project's training set, and its windows as files for QGIS."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.output import JsonOption, ProjectArgument, console, print_json, progress


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("dataset")(dataset)


def dataset(
    project: ProjectArgument = Path(),
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder for windows.gpkg and GeoTIFFs of windows, to open in QGIS.")
    ] = None,
    window: Annotated[
        list[str] | None,
        typer.Option("--window", "-w", help="A window to write; repeat for more. Default: the 4 that show most."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the training set of a project, or write its windows for QGIS."""
    from olmoearth_core.dataset.dataset import open_dataset
    from olmoearth_core.dataset.gis import telling_windows, write_for_gis
    from olmoearth_core.project import load_project

    loaded = load_project(project)
    folder = loaded.root / "data" / "dataset"
    found = open_dataset(folder)
    facts = _facts(found)
    written: list[Path] = []
    if to is not None:
        names = window or telling_windows(found, 4)
        colors = {c.name: c.color for task in loaded.config.tasks.values() for c in task.classes}
        with progress(as_json) as listener:
            written = write_for_gis(found, to.expanduser().resolve(), names, colors, listener)
    if as_json:
        print_json({"project": loaded.config.name, **facts, "files": [str(path) for path in written]})
        return
    out = console()
    for key, value in facts.items():
        told = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        out.print(f"{key.replace('_', ' '):14} {told}", highlight=False, soft_wrap=True)
    out.print(f"{'report':14} {folder / 'expectations.html'}", highlight=False, soft_wrap=True)
    if written:
        out.print(f"Wrote {len(written)} files; open in QGIS: {written[0]}", highlight=False, soft_wrap=True)
    else:
        out.print("Look at windows in QGIS: --to FOLDER [--window NAME]", highlight=False)


def _facts(found: Any) -> dict[str, Any]:
    pixels = dict(zip(found.classes, found.pixels().sum(axis=0).tolist(), strict=True))
    return {
        "windows": {split: len(found.indices(split)) for split in ("train", "validation", "test")},
        "window_size": f"{found.window_size} px of {found.resolution:g} m, {found.grid.crs}",
        "timesteps": found.timesteps,
        "bands": {modality: " ".join(names) for modality, names in found.bands.items()},
        "labelled_pixels": pixels,
    }
