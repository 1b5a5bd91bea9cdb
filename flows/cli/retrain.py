"""`olmoearth retrain` and `olmoearth due`: a new model through the gates, and whether it is time for one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.output import JsonOption, ProjectArgument, console, print_json, progress
from flows.cli.stages import EngineOption, ProcessesOption


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(retrain)
    app.command()(due)


def retrain(
    project: ProjectArgument = Path(),
    why: Annotated[str, typer.Option("--why", help="The reason, for the record.")] = "",
    if_due: Annotated[bool, typer.Option("--if-due", help="Only if something is due (olmoearth due).")] = False,
    engine: EngineOption = None,
    processes: ProcessesOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Train a challenger on the newest labels; it becomes the champion only if the gates let it pass."""
    from flows.engines import check_engine
    from flows.run import run_retraining
    from olmoearth_core.project import load_project

    check_engine(engine, processes)
    loaded = load_project(project)
    with progress(as_json) as listener:
        found = run_retraining(loaded, listener, why=why, only_if_due=if_due, engine=engine, processes=processes)
    if as_json:
        print_json({"project": loaded.config.name, **found})
        return
    out = console()
    for sentence in found["due"]:
        out.print(f"Due: {sentence}", highlight=False, markup=False, soft_wrap=True)
    out.print(found["sentence"], highlight=False, markup=False, soft_wrap=True)
    for title, key in (("Report", "report"), ("Map", "mapped")):
        if key in found:
            out.print(f"{title}: {loaded.root / found[key]}", highlight=False, soft_wrap=True)
    if found["outcome"] == "promoted" and "mapped" not in found:
        out.print(f"Next: olmoearth run {loaded.root} (maps with the new model)", highlight=False, soft_wrap=True)


def due(
    project: ProjectArgument = Path(),
    tell: Annotated[
        bool, typer.Option("--tell", help="Tell Prefect: an event that starts a deployed retraining.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say why retraining is due, if it is; with --tell (from a git hook, say) a deployed project starts at once."""
    from flows.due import reasons
    from flows.due import tell as emit
    from flows.progress import listening
    from olmoearth_core.project import load_project

    loaded = load_project(project)
    with progress(as_json) as listener, listening(listener):
        found = reasons(loaded)
    fresh = emit(loaded, found) if tell else []
    if as_json:
        rows = [{"kind": r.kind, "sentence": r.sentence, "needs": r.needs, "told": r in fresh} for r in found]
        print_json({"project": loaded.config.name, "due": rows})
        return
    out = console()
    for reason in found:
        mark = " (told Prefect)" if reason in fresh else ""
        out.print(f"{reason.kind}: {reason.sentence}{mark}", highlight=False, markup=False, soft_wrap=True)
        if reason.needs:
            out.print(f"No retraining: {reason.needs}", highlight=False, markup=False, soft_wrap=True)
    if not found:
        why = "" if loaded.config.retraining else " Nobody looks: add `retraining: {}` to project.yaml to have it told."
        out.print(f"Nothing is due.{why}", highlight=False)
