"""The report of an audit as text for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from registry.audit.report import AuditReport, Check, ModelFacts, RunFacts, SceneFacts, Touched

MOST_PROBLEMS, MOST_ROWS = 5, 20
VERDICTS = {"verified": "[green]VERIFIED", "recorded": "[yellow]RECORDED"}
MARKS = {
    "ok": "[green]ok[/]     ",
    "differs": "[red]differs[/]",
    "missing": "[yellow]missing[/]",
    "changed": "[yellow]changed[/]",
}


def show(report: AuditReport, out: Console) -> None:
    """Print the verdict, the lineage both ways, and the checks."""
    out.print(f"[bold]{VERDICTS.get(report.verdict, '[red]NOT VERIFIED')}[/][/]  ", end="")
    out.print(report.sentence, highlight=False, markup=False, soft_wrap=True)
    if report.scenes and report.touched is not None:  # "which maps does this scene touch?": maps before its files
        _show_touched(report.touched, out)
    for title, line in _upstream(report):
        out.print(f"[bold]{title:<9}[/]", end="")
        out.print(line, highlight=False, markup=False, soft_wrap=True)
    if not report.scenes and report.touched is not None:
        _show_touched(report.touched, out)
    for check in report.checks:
        show_check(check, out)


def _upstream(report: AuditReport) -> Iterator[tuple[str, str]]:
    """(Title, line) of everything that made the thing, from the map back to the labels."""
    if report.map is not None:
        found = report.map
        reused = f" ({found.reused_tiles} made by earlier runs)" if found.reused_tiles else ""
        yield "map", f"{found.id} of the project {found.project}, for {found.date}, {found.tiles} tile(s){reused}"
        yield "scenes", _scenes(found.scenes)
        for assessed in found.assessments:
            yield "", f"assessed on {assessed.created:%Y-%m-%d} with {assessed.units} sample units by {assessed.who}"
    if report.model is not None:
        yield from _model(report.model)
    if report.dataset is not None:
        data = report.dataset
        yield "data", f"dataset {data.digest[:16]}, DVC {data.dvc_hash or 'unknown'}"
        yield "", f"scenes: {_scenes(data.scenes)}"
        for name, sha256 in data.labels.items():
            yield "", f"labels {name}, sha256 {sha256}"
    for run in report.runs or []:
        yield "run", _run(run)
    for scene in report.scenes or []:
        yield "scene", f"{scene.id}, {scene.modality}, {scene.acquired:%Y-%m-%d %H:%M} UTC, from {scene.catalogue}"
        for asset in scene.assets:
            known = asset.checksum or "no checksum known"
            yield "", f"{asset.name}: {known}, first read {asset.accessed:%Y-%m-%d}, {asset.href}"
    for file in report.labels or []:
        yield (
            "labels",
            f"{file.name} of the project {file.project}, sha256 {file.sha256}, label set {file.label_set[:16]}",
        )
    if report.encoder is not None:
        base = report.encoder
        known = f"sha256 {base.sha256}" if base.sha256 else f"seed {base.seed}"
        yield "encoder", f"{base.encoder}, {base.source}, {known}, licence {base.licence}"


def _model(model: ModelFacts) -> Iterator[tuple[str, str]]:
    yield "model", f"{model.name} version {model.version}, {model.encoder}, began from {model.base}"
    yield "", f"weights sha256 {model.weights_sha256}"
    for one in model.promotions:
        to = f"version {one.to_version}" if one.to_version else "nobody"
        yield "", f"{one.action} {one.alias} to {to} on {one.intended:%Y-%m-%d} by {one.who}: {one.why} ({one.state})"


def _run(run: RunFacts) -> str:
    cost = f", {run.wall_seconds:.1f} s" if run.wall_seconds is not None else ""
    if run.status == "found":
        return f"{run.stage}: found complete; maker unknown{cost}"
    code = run.code_commit[:12] if run.code_commit else f"version {run.platform_version}"
    changed = " with uncommitted changes" if run.code_dirty else ""
    lock = f", lock {run.lock_sha256[:12]}" if run.lock_sha256 else ""
    when = f"{run.finished:%Y-%m-%d %H:%M} UTC" if run.finished else "at an unknown time"
    return f"{run.stage}: {when} by {run.who} on {run.host}, code {code}{changed}{lock}{cost}"


def _show_touched(touched: Touched, out: Console) -> None:
    maps = [
        (one.id, one.project, str(one.date), one.model or "", f"{one.created:%Y-%m-%d}", one.through)
        for one in touched.maps
    ]
    models = [
        (f"{m.name}/{m.version}", m.project, m.weights_sha256[:16], f"{m.created:%Y-%m-%d}") for m in touched.models
    ]
    datasets = [(d.digest[:16], d.project, d.dvc_hash or "", f"{d.created:%Y-%m-%d}") for d in touched.datasets]
    _show_table(out, "map(s)", ("map", "project", "for", "model", "recorded", "through its"), maps)
    _show_table(out, "model version(s)", ("model", "project", "weights", "recorded"), models)
    _show_table(out, "dataset version(s)", ("digest", "project", "DVC", "recorded"), datasets)


def _show_table(out: Console, what: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table of what was made from the thing; nothing where there is none."""
    if not rows:
        return
    from rich.table import Table

    table = Table(title=f"{len(rows):,} {what} made from it", title_justify="left")
    for name in head:
        table.add_column(name, overflow="fold")
    for row in rows[:MOST_ROWS]:
        table.add_row(*row)
    out.print(table)
    if len(rows) > MOST_ROWS:
        out.print(f"and {len(rows) - MOST_ROWS:,} more (--json lists all)", highlight=False)


def show_check(check: Check, out: Console) -> None:
    """Print a check and the first of its problems."""
    out.print(f"  {MARKS[check.status]}  {check.what}: ", end="", highlight=False)
    out.print(check.detail, highlight=False, markup=False, soft_wrap=True)
    for problem in check.problems[:MOST_PROBLEMS]:
        out.print(f"             {problem}", highlight=False, markup=False, soft_wrap=True)
    if len(check.problems) > MOST_PROBLEMS:
        out.print(f"             and {len(check.problems) - MOST_PROBLEMS} more (--json lists all)", highlight=False)


def _scenes(scenes: Sequence[SceneFacts]) -> str:
    if not scenes:
        return "none"
    days = sorted(f"{scene.acquired:%Y-%m-%d}" for scene in scenes)
    span = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    named = ", ".join(scene.id for scene in scenes[:3])
    return f"{len(scenes)} ({span}): {named}{', ...' if len(scenes) > 3 else ''}"
