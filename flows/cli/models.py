"""`olmoearth models`: the model versions of a project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from flows.cli.output import JsonOption, ProjectArgument, console, print_json


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(models)


def models(project: ProjectArgument = Path(), as_json: JsonOption = False) -> None:
    """List the project's model versions: aliases, scores, what they were trained on."""
    from olmoearth_core.project import load_project
    from registry.models import list_models
    from registry.registry import open_registry
    from registry.workspace import Workspace

    name = load_project(project).config.name
    workspace = Workspace.from_environment()
    aliases = {version.version: version.aliases for version in list_models(workspace, name)}
    with open_registry(workspace) as registry:
        rows: list[dict[str, Any]] = [
            {
                "version": str(model.mlflow_version),
                "aliases": list(aliases.get(model.mlflow_version, [])),
                "encoder": model.encoder,
                "scores": model.metrics,
                "dataset": model.dataset.digest if model.dataset else None,
                "weights_sha256": model.weights_sha256,
                "created": model.created,
            }
            for model in registry.models(name)
        ]
    if as_json:
        print_json({"project": name, "models": rows})
        return
    out = console()
    if not rows:
        out.print(f"{name} has no model version yet: `olmoearth finetune {project}`.", highlight=False)
        return
    from rich.table import Table

    table = Table(title=f"Model versions of {name}", title_justify="left")
    for column in ("version", "alias", "encoder", "score", "validation", "test", "dataset", "weights", "made"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row["version"],
            ", ".join(row["aliases"]),
            row["encoder"],
            row["scores"].get("headline", "miou"),
            *(_score(row["scores"], split) for split in ("validation", "test")),
            (row["dataset"] or "-")[:12],
            row["weights_sha256"][:12],
            f"{row['created']:%Y-%m-%d %H:%M}",
        )
    out.print(table)


def _score(scores: dict[str, Any], split: str) -> str:
    found, name = scores.get(split) or {}, scores.get("headline", "miou")
    if found.get(name) is None:
        return "-"
    interval = (found.get("intervals") or {}).get(name)
    return f"{found[name]:.3f}" + (f" ({interval['low']:.3f}-{interval['high']:.3f})" if interval else "")
