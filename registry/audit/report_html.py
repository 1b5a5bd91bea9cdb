"""A report as one self-contained page: the verdict, the lineage as a drawing, scores, runs, scenes, every check.

Nothing is loaded from anywhere; it can be printed, mailed, and read years later without this platform.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any

from olmoearth_core.dataset.html import table
from olmoearth_core.models.score_text import NAMES, OVERALL, PARTS, named, with_interval
from olmoearth_core.training.report_style import STYLE
from registry.audit.graph import lineage_graph, svg
from registry.audit.report import AuditReport, Check, MapFacts, ModelFacts, RunFacts, SceneFacts, Touched

MOST = 200
"""Rows of a table; what is left out is counted, and in `--json`."""
VERDICTS = {
    "verified": ("good", "Verified"),
    "differs": ("error", "Not verified: something differs"),
    "incomplete": ("warning", "Not verified: incomplete"),
    "recorded": ("soft", "Recorded, nothing verified"),
    "unknown": ("error", "Unknown"),
}
"""Verdict -> (class of its colour, words)."""
MARKS = {"ok": "good", "differs": "error", "missing": "warning", "changed": "warning"}
OWN_STYLE = """
.badge { display: inline-block; border: 2px solid currentColor; border-radius: 6px; padding: .1rem .7rem;
  margin: .8rem 0 .3rem; } code { font-size: .82em; overflow-wrap: anywhere; }
.facts th { width: 11rem; } .facts td { overflow-wrap: anywhere; } tr:last-child th { border-bottom: 0; }
.beside { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.beside > * { flex: 1 1 20rem; min-width: 0; }
.beside img { max-width: 22rem; border: 1px solid var(--line); }
.problems { margin: .2rem 0 0; padding-left: 1.1rem; }
svg.lineage { width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg .line { fill: none; stroke: var(--soft); stroke-width: 1.4; }
svg .far { stroke-dasharray: 4 4; opacity: .55; }
svg rect { fill: var(--paper); stroke: var(--line); stroke-width: 1.4; } svg text { fill: var(--soft); }
svg .title { fill: var(--text); font-weight: 600; } svg .asked rect { stroke-width: 3; }
svg .labels rect { stroke: #8a6d1d; } svg .scene rect { stroke: #2b6cb0; } svg .dataset rect { stroke: #6b46c1; }
svg .encoder rect { stroke: #718096; } svg .model rect { stroke: #b83280; } svg .tile rect { stroke: #2c7a7b; }
svg .map rect { stroke: #2f855a; }
@media print { :root { color-scheme: light; --text: #000; --soft: #444; --line: #bbb; --paper: #fff; --page: #fff; }
  body { font-size: 10pt; } main { max-width: none; padding: 0; }
  section { border: 0; padding: .6rem 0; overflow: visible; }
  h2, tr, figure, svg { break-inside: avoid; } h2 { break-after: avoid; } }
"""


def page(report: AuditReport, *, when: datetime, by: str, registry: str) -> str:
    """The page, as HTML.

    Args:
        report: of `audit` or `lineage`.
        when: the audit was made.
        by: version of the platform that made it.
        registry: which was asked, without a password.
    """
    colour, words = VERDICTS[report.verdict]
    name = report.subject.name if report.subject is not None else report.asked
    project = next((facts.project for facts in (report.map, report.dataset) if facts is not None), "")
    of = f"{escape(project)}: " if project and project != name else ""
    head = (
        f"<header><h1>{of}{escape(name)}</h1><p class='verdict {colour} badge'>{words}</p>"
        f"<p>{escape(report.sentence)}</p><p class=soft>Asked about: <code>{escape(report.asked)}</code>. Audited on "
        f"{when:%Y-%m-%d %H:%M} UTC by olmoearth {escape(by)} against the registry <code>{escape(registry)}</code>.</p>"
        "</header>"
    )
    sections = "".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in _sections(report))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Audit of {of}{escape(name)}</title><style>{STYLE}{OWN_STYLE}</style></head>"
        f"<body><main>{head}{sections}</main></body></html>\n"
    )


def _sections(report: AuditReport) -> Iterator[tuple[str, str]]:
    if report.subject is not None:
        yield "Lineage", svg(lineage_graph(report))
    if report.map is not None:
        yield "The map", _map(report.map, _picture(report))
    if report.model is not None:
        yield "The model", _model(report.model)
    if report.dataset is not None:
        data = report.dataset
        facts = [("digest", data.digest), ("DVC", data.dvc_hash or "unknown"), ("project", data.project)]
        labels = [(escape(name), _mono(sha256)) for name, sha256 in data.labels.items()]
        yield "The training data", _facts(facts) + table(("label file", "sha256"), labels)
    if report.labels:
        facts = [(file.project, f"{file.name}, in the label set {file.label_set}") for file in report.labels]
        yield "The labels", _facts([("sha256", report.labels[0].sha256), *facts])
    if report.touched is not None and (report.touched.datasets or report.touched.models or report.touched.maps):
        yield "What was made from it", _touched(report.touched)
    if report.checks:
        yield "Checks", _checks(report.checks)
    if report.runs:
        yield "Who made it, when, with which code", _runs(report.runs)
    for title, scenes in (
        ("The scene", report.scenes or []),
        ("Scenes of the map", report.map.scenes if report.map is not None else []),
        ("Scenes of the training data", report.dataset.scenes if report.dataset is not None else []),
    ):
        if scenes:
            yield title, _scenes(scenes) + _assets(scenes)


def _picture(report: AuditReport) -> str:
    if report.preview is None:
        return ""
    content = base64.b64encode(report.preview.read_bytes()).decode()
    return f'<img alt="Preview of the map" src="data:image/png;base64,{content}">'


def _map(made: MapFacts, picture: str) -> str:
    reused = f", {made.reused_tiles} of them made by earlier runs" if made.reused_tiles else ""
    facts = [
        ("id", made.id),
        ("project", made.project),
        ("for the date", str(made.date)),
        ("recorded", f"{made.recorded:%Y-%m-%d %H:%M} UTC"),
        ("digest", made.digest),
        ("tiles", f"{made.tiles}{reused}"),
        *((f"assessed {one.created:%Y-%m-%d}", f"{one.units} sample units, by {one.who}") for one in made.assessments),
    ]
    products = table(("product", "sha256"), [(escape(n), _mono(d)) for n, d in made.products.items()])
    return f"<div class=beside>{_facts(facts)}{picture}</div>{products}"


def _model(model: ModelFacts) -> str:
    facts = [
        ("MLflow", f"models:/{model.name}/{model.version}"),
        ("encoder", model.encoder),
        ("began from", model.base),
        ("licence", model.base_encoder.licence if model.base_encoder is not None else ""),
        ("weights", f"sha256 {model.weights_sha256}"),
    ]
    told = _facts(fact for fact in facts if fact[1]) + _scores(model.metrics)
    if model.promotions:
        rows = [
            (
                f"{one.intended:%Y-%m-%d %H:%M}",
                escape(one.action),
                escape(one.alias),
                escape(f"{one.from_version or 'none'} to {one.to_version or 'none'}"),
                escape(one.who),
                escape(one.why),
                escape(one.state),
            )
            for one in model.promotions
        ]
        head = ("when (UTC)", "what", "alias", "version", "who", "why", "state")
        told += "<h3>Promotions</h3>" + table(head, rows)
    return told


def _scores(metrics: Mapping[str, Any]) -> str:
    """Scores with their intervals, as far as the model has them; of the parts, those of the last split judged."""
    kind = metrics.get("kind", "segmentation")
    splits = {split: metrics[split] for split in ("validation", "test") if (metrics.get(split) or {}).get("pixels")}
    keys = [key for key in OVERALL.get(kind, ()) if any(key in scores for scores in splits.values())]
    if not splits or not keys:
        return ""
    rows = [
        (NAMES[key], *(with_interval(scores, key) if key in scores else "" for scores in splits.values()))
        for key in keys
    ]
    told = "<h3>Scores (95 % intervals in brackets)</h3>" + table(("score", *splits), rows)
    section, parts = PARTS[kind]
    split, scores = list(splits.items())[-1]
    if found := scores.get(section):
        parts = tuple(part for part in parts if all(part in values for values in found.values()))
        lines = [(escape(name), *(with_interval(scores, section, name, part) for part in parts)) for name in found]
        heads = (named(part, scores.get("unit", "")) for part in parts)
        told += f"<h3>By part, {split}</h3>" + table(("class" if section == "classes" else "range", *heads), lines)
    return told


def _touched(touched: Touched) -> str:
    maps = [
        (escape(m.id), escape(m.project), str(m.date), escape(m.model or ""), f"{m.created:%Y-%m-%d}", m.through)
        for m in touched.maps
    ]
    models = [
        (
            escape(f"{m.name}/{m.version}"),
            escape(m.project),
            _mono(m.weights_sha256),
            str(m.created.date()),
        )
        for m in touched.models
    ]
    datasets = [
        (_mono(d.digest), escape(d.project), escape(d.dvc_hash or ""), str(d.created.date())) for d in touched.datasets
    ]
    parts: list[tuple[str, tuple[str, ...], Sequence[Sequence[str]]]] = [
        ("maps", ("map", "project", "for", "model", "recorded", "through its"), maps),
        ("model versions", ("model", "project", "weights", "recorded"), models),
        ("dataset versions", ("digest", "project", "DVC", "recorded"), datasets),
    ]
    return "".join(f"<h3>{len(rows):,} {what}</h3>{_long(head, rows)}" for what, head, rows in parts if rows)


def _checks(checks: Sequence[Check]) -> str:
    def detail(check: Check) -> str:
        more = [f"and {len(check.problems) - MOST} more"] if len(check.problems) > MOST else []
        problems = "".join(f"<li>{escape(problem)}</li>" for problem in [*check.problems[:MOST], *more])
        return escape(check.detail) + (f"<ul class=problems>{problems}</ul>" if problems else "")

    rows = [(f"<span class={MARKS[c.status]}>{c.status}</span>", escape(c.what), detail(c)) for c in checks]
    return table(("", "what", "found"), rows)


def _runs(runs: Sequence[RunFacts]) -> str:
    def code(run: RunFacts) -> str:
        if run.status == "found":
            return "unknown: the outputs were found complete"
        changed = ", with uncommitted changes" if run.code_dirty else ""
        return f"<code>{escape(run.code_commit or f'version {run.platform_version}')}</code>{changed}"

    rows = [
        (
            escape(run.stage),
            f"{run.finished:%Y-%m-%d %H:%M}" if run.finished else "unknown",
            escape(f"{run.who} on {run.host}" if run.who else "unknown"),
            code(run),
            _mono((run.lock_sha256 or "unknown")[:16]),
            f"{run.wall_seconds:,.1f}" if run.wall_seconds is not None else "",
            _mono(run.key[:16]),
        )
        for run in runs
    ]
    return table(("stage", "when (UTC)", "who", "code", "lock", "seconds", "key"), rows, frozenset({5}))


def _scenes(scenes: Sequence[SceneFacts]) -> str:
    rows = [
        (
            escape(scene.id),
            escape(scene.modality),
            f"{scene.acquired:%Y-%m-%d %H:%M}",
            "" if scene.cloud_cover is None else f"{scene.cloud_cover:.0f} %",
            escape(scene.catalogue),
        )
        for scene in scenes
    ]
    return _long(("scene", "modality", "acquired (UTC)", "cloud", "catalogue"), rows)


def _assets(scenes: Sequence[SceneFacts]) -> str:
    rows = [
        (
            escape(scene.modality),
            escape(one.name),
            _mono(one.checksum),
            f"{one.accessed:%Y-%m-%d}",
            escape(one.href),
        )
        for scene in scenes
        for one in scene.assets
    ]
    head = ("modality", "file", "checksum", "first read", "where")
    return f"<h3>Its files</h3>{_long(head, rows)}" if rows else ""


def _long(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, and how many rows it leaves out."""
    more = f"<p class=soft>and {len(rows) - MOST:,} more, all in --json</p>" if len(rows) > MOST else ""
    return table(head, rows[:MOST]) + more


def _mono(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts)
    return f"<table class=facts>{rows}</table>"
