"""`olmoearth models`: the model versions of a project, which of them maps, and how that came to be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from flows.cli.output import JsonOption, ProjectArgument, console, print_json, progress, side_console

if TYPE_CHECKING:
    from flows.gatekeeper import Evaluated
    from olmoearth_core.project import Project
    from registry.registry import Registry

PROJECT = typer.Argument(help="The project folder.")
VersionArgument = Annotated[str, typer.Argument(help="Number of a version, or champion, challenger.")]
WhyOption = Annotated[str, typer.Option("--why", help="The reason, for the record.")]


class _ListByDefault(TyperGroup):
    """`olmoearth models PROJECT` lists, as it did before there were other commands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the name of the command first where it is left out."""
        named = args and (args[0] in self.commands or args[0] in ("--help", "-h"))
        return super().parse_args(ctx, list(args) if named else ["list", *args])


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    models = typer.Typer(cls=_ListByDefault, help="Model versions: list, show, compare, promote, roll back.")
    models.command("list")(list_models)
    models.command("show")(show)
    models.command("compare")(compare)
    models.command("promote")(promote)
    models.command("rollback")(rollback)
    app.add_typer(models, name="models")


@contextmanager
def _opened(folder: Path) -> Iterator[tuple[Project, Registry]]:
    """The project and the registry; what a killed command left undone is finished first."""
    from olmoearth_core.project import load_project
    from registry.mlflow.promotions import settle
    from registry.registry import open_registry
    from registry.workspace import Workspace

    project = load_project(folder)
    with open_registry(Workspace.from_environment()) as registry:
        for left in settle(registry, project.config.name):
            side_console().print(f"{project.config.name}: {left.sentence}.", highlight=False, soft_wrap=True)
        yield project, registry


def list_models(project: ProjectArgument = Path(), as_json: JsonOption = False) -> None:
    """List the project's model versions: aliases, scores, what they were trained on."""
    from registry.mlflow.models import list_models as known
    from registry.mlflow.promotions import disagreement

    with _opened(project) as (loaded, registry):
        name = loaded.config.name
        aliases = {version.version: version.aliases for version in known(registry.workspace, name)}
        odd = disagreement(registry, name)
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
        print_json({"project": name, "models": rows, "disagreement": odd})
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
    if odd:
        out.print(f"[yellow]{odd}[/]", highlight=False, soft_wrap=True)


def show(project: ProjectArgument = Path(), version: VersionArgument = "champion", as_json: JsonOption = False) -> None:
    """Show one version: what it was made of, how it was judged, when it became champion, which maps it made."""
    from registry.mlflow.model_story import story

    with _opened(project) as (loaded, registry):
        told = story(registry, loaded.config.name, version)
    if as_json:
        print_json(told)
        return
    out = console()
    out.print(f"{told['name']}, version {told['version']}  {' '.join(told['aliases'])}", highlight=False)
    for key in ("encoder", "base", "dataset", "weights_sha256", "digest", "trained", "by", "code", "mlflow_run"):
        out.print(f"  {key.replace('_', ' ')}: {told[key]}", highlight=False, markup=False, soft_wrap=True)
    for title, rows in (("Judged", "evaluations"), ("Champion", "promotions"), ("Maps", "maps")):
        for row in told[rows]:
            out.print(f"  {title}: {row['sentence']}", highlight=False, markup=False, soft_wrap=True)


def compare(
    project: Annotated[Path, PROJECT],
    challenger: VersionArgument,
    champion: VersionArgument = "champion",
    as_json: JsonOption = False,
) -> None:
    """Have two versions answer the test windows of the training set; says what the gates would, and changes nothing."""
    from flows.gatekeeper import evaluate
    from registry.mlflow.models import get_model

    with _opened(project) as (loaded, registry), progress(as_json) as listener:
        one, other = (get_model(registry.workspace, loaded.config.name, v) for v in (champion, challenger))
        found = evaluate(loaded, registry, one, other, listener)
    if as_json:
        print_json({"project": loaded.config.name, **found.to_json()})
        return
    _print_evaluated(loaded, found)


def promote(
    project: Annotated[Path, PROJECT],
    version: VersionArgument,
    why: WhyOption = "by hand",
    force: Annotated[bool, typer.Option("--force", help="Without asking the gates; on record as such.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a version the champion, if the gates let it pass: what maps where map.model says so."""
    from flows.gatekeeper import decide, refuse
    from registry.mlflow.models import get_model

    with _opened(project) as (loaded, registry), progress(as_json) as listener:
        model = get_model(registry.workspace, loaded.config.name, version)
        decided = decide(loaded, registry, model, listener, why=why, force=force)
    if decided.evaluated is not None and not as_json:
        _print_evaluated(loaded, decided.evaluated)
    refuse(decided, loaded.root)
    if as_json:
        evaluated = decided.evaluated.to_json() if decided.evaluated else None
        print_json({"project": loaded.config.name, "promoted": True, "evaluation": evaluated})
    else:
        console().print(decided.sentence, highlight=False, soft_wrap=True)


def rollback(project: Annotated[Path, PROJECT], why: WhyOption = "by hand", as_json: JsonOption = False) -> None:
    """Make the version champion that was it before the one of now."""
    from registry.mlflow.promotions import rollback as go_back

    with _opened(project) as (loaded, registry):
        row = go_back(registry, loaded.config.name, why=why)
    if as_json:
        print_json({"project": loaded.config.name, "champion": row.to_version, "before": row.from_version})
        return
    told = f"{loaded.config.name}: version {row.to_version} is the champion again; it was version {row.from_version}."
    console().print(told, highlight=False, soft_wrap=True)


def _print_evaluated(project: Project, found: Evaluated) -> None:
    from olmoearth_core.training.gates import sentences

    out = console()
    head = f"Version {found.challenger.version} against the champion, version {found.champion.version}:"
    for line in (head, *(f"  {line}" for line in sentences(found.gates))):
        out.print(line, highlight=False, markup=False, soft_wrap=True)
    out.print(f"Report: {project.root / found.report}", highlight=False, soft_wrap=True)


def _score(scores: dict[str, Any], split: str) -> str:
    found, name = scores.get(split) or {}, scores.get("headline", "miou")
    if found.get(name) is None:
        return "-"
    interval = (found.get("intervals") or {}).get(name)
    return f"{found[name]:.3f}" + (f" ({interval['low']:.3f}-{interval['high']:.3f})" if interval else "")
