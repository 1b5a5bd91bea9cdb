"""`olmoearth probe`: what encoders are worth on a project's task, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.output import JsonOption, ProjectArgument, console, listed, print_json, progress

EncodersOption = Annotated[str, typer.Option(help="Separated by commas. Default: the project's.")]
WeightsOption = Annotated[
    str,
    typer.Option(
        help="For each of --encoders, in their order, separated by commas: a checkpoint as in project.yaml, or "
        "'random'. Default: the project's for its own encoder, those of the catalogue for others."
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(probe)


def probe(
    project: ProjectArgument = Path(),
    encoders: EncodersOption = "",
    weights: WeightsOption = "",
    split: Annotated[str, typer.Option(help="What is judged by: validation, or test.")] = "validation",
    task: Annotated[str | None, typer.Option(help="A task's name. Default: the one that is mapped.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare frozen encoders on the training set: neighbours, a linear layer, random weights, a random forest.

    Needs the training set (`olmoearth run --until preprocess`). Trains no encoder; asked again, it remembers.
    """
    from flows.door import finished_stage
    from olmoearth_core.project import load_project
    from olmoearth_core.stage import project_lock
    from olmoearth_core.training.candidates import candidates
    from olmoearth_core.training.probe import probe as compare

    loaded = load_project(project)
    with progress(as_json) as listener, project_lock(loaded):
        dataset = finished_stage(loaded, "preprocess", listener)
        named = candidates(loaded, listed(encoders), listed(weights))
        found = compare(loaded, dataset.folder, dataset.manifest, named, split=split, task=task, progress=listener)
    if as_json:
        print_json(found)
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    from rich.table import Table

    from olmoearth_core.models.score_text import NAMES

    protocol = found["protocol"]
    name = NAMES[found["headline"]]
    table = Table(title=f"{protocol['project']}: {name} on {protocol['split']}, frozen encoders", title_justify="left")
    for column in ("encoder", "weights"):
        table.add_column(column, overflow="fold")
    for column in (f"kNN, k {protocol['knn']['k']}", "linear", "random weights:\nkNN", "\nlinear", "random forest"):
        table.add_column(column, justify="right")
    for k, row in enumerate(found["encoders"]):
        scores = (row["knn"], row["linear"], row["random"]["knn"], row["random"]["linear"])
        forest = _score(found["forest"]) if k == 0 else ""
        table.add_row(row["encoder"], row["weights"], *map(_score, scores), forest)
    out = console()
    out.print(table)
    for line in [found["note"], *(c["sentence"] for c in found["comparisons"])]:
        if line:
            out.print(line, highlight=False, markup=False)
    points = "windows" if protocol["kind"] == "classification" else "patches, which a probe answers for as a whole"
    drawn = found["encoders"][0]["random"]["knn"]["points"]
    size = f"{protocol['image_size']} px windows, {protocol['patch_size']} px patches"
    out.print(f"Learned from {drawn} {points}; {size}; in brackets: 95 % intervals.", highlight=False, style="dim")


def _score(scored: dict[str, Any] | None) -> str:
    if scored is None or scored["value"] is None:
        return "-"
    text = f"{scored['value']:.3f}"
    return text if scored["low"] is None else f"{text}\n({scored['low']:.3f} to {scored['high']:.3f})"
