"""A report's lineage as W3C PROV-JSON (https://www.w3.org/submissions/prov-json/), for other people's tools.

Entities are named by what they are and their digests, runs are activities, and who or what carried them out are agents.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from registry.audit.report import AuditReport, DatasetFacts, MapFacts, ModelFacts, RunFacts, SceneFacts

NAMESPACE = "urn:olmoearth:"
PREFIX = "olmoearth"
DATETIME = "xsd:dateTime"
RUN_ATTRIBUTES = ("stage", "key", "project_commit", "lock_sha256", "environment_sha256", "host", "flow_run")


def prov_document(report: AuditReport) -> dict[str, Any]:
    """The lineage of the report, both ways, as one PROV-JSON document; an unknown thing gives an empty one."""
    document = _Document()
    runs = {run.stage: run for run in report.runs or []}
    for run in runs.values():
        document.run(run)
    if report.dataset is not None:
        _tell_dataset(document, report.dataset, runs)
    if report.model is not None:
        _tell_model(document, report.model, report.dataset, runs)
    if report.map is not None:
        _tell_map(document, report.map, report.model, runs)
    _tell_touched(document, report)
    return document.values


class _Document:
    """A PROV-JSON document in the making."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {"prefix": {PREFIX: NAMESPACE, "xsd": "http://www.w3.org/2001/XMLSchema#"}}

    def add(self, kind: str, name: str, **attributes: Any) -> str:
        """An entity, activity or agent; its qualified name."""
        self.values.setdefault(kind, {}).setdefault(name, {}).update(
            {key: value for key, value in attributes.items() if value is not None}
        )
        return name

    def entity(self, kind: str, id: str, label: str, attributes: Mapping[str, Any]) -> str:
        """A thing that was made or read."""
        told = {f"{PREFIX}:{key}": value for key, value in attributes.items() if value is not None}
        kind_of = {"$": f"{PREFIX}:{kind}", "type": "prov:QUALIFIED_NAME"}
        return self.add("entity", named(kind, id), **{"prov:label": label, "prov:type": kind_of, **told})

    def relate(self, relation: str, **ends: str | None) -> None:
        """A relation between two of them."""
        relations = self.values.setdefault(relation, {})
        told = {f"prov:{role}": end for role, end in ends.items() if end is not None}
        if told not in relations.values():
            relations[f"_:{relation}{len(relations) + 1}"] = told

    def run(self, run: RunFacts) -> None:
        """A run, and who carried it out with which code."""
        told = {f"{PREFIX}:{name}": getattr(run, name) for name in RUN_ATTRIBUTES}
        label, moments = f"{run.stage} ({run.status})", (_moment(run.started), _moment(run.finished))
        named_moments = {"prov:startTime": moments[0], "prov:endTime": moments[1]}
        activity = self.add("activity", _run(run), **{"prov:label": label, **named_moments, **told})
        who = self.add("agent", named("who", run.who), **{"prov:label": run.who}) if run.who else None
        if run.platform_version is not None:
            code = f"{run.platform_version} {run.code_commit or ''}{' changed' if run.code_dirty else ''}".strip()
            software = {"$": "prov:SoftwareAgent", "type": "prov:QUALIFIED_NAME"}
            agent = self.add("agent", named("code", code), **{"prov:label": f"olmoearth {code}", "prov:type": software})
            self.relate("wasAssociatedWith", activity=activity, agent=agent)
            if who is not None:
                self.relate("actedOnBehalfOf", delegate=agent, responsible=who, activity=activity)
        if who is not None:
            self.relate("wasAssociatedWith", activity=activity, agent=who)

    def made(self, entity: str, run: RunFacts | None, sources: Iterable[str]) -> None:
        """`entity` was made by `run` from `sources`."""
        if run is not None:
            self.relate("wasGeneratedBy", entity=entity, activity=_run(run), time=_moment(run.finished))
        for source in sources:
            if run is not None:
                self.relate("used", activity=_run(run), entity=source)
            self.relate("wasDerivedFrom", generatedEntity=entity, usedEntity=source)


def _tell_dataset(document: _Document, data: DatasetFacts, runs: Mapping[str, RunFacts]) -> None:
    labels = [
        document.entity("labels", sha256, name, {"name": name, "sha256": sha256})
        for name, sha256 in data.labels.items()
    ]
    export = runs.get("export")
    scenes = [_scene(document, scene) for scene in data.scenes]
    sources = [*labels, *scenes]
    if export is not None:
        copies = document.entity("export", export.digest, f"export {export.digest[:16]}", {"digest": export.digest})
        document.made(copies, export, sources)
        sources = [copies, *labels]
    document.made(_dataset(document, data.digest, data.dvc_hash), runs.get("preprocess"), sources)


def _tell_model(
    document: _Document, model: ModelFacts, data: DatasetFacts | None, runs: Mapping[str, RunFacts]
) -> None:
    base = model.base_encoder
    told = {"source": base.source, "sha256": base.sha256, "licence": base.licence} if base else {"base": model.base}
    encoder = document.entity("encoder", (base and base.sha256) or f"{model.encoder} {model.base}", model.encoder, told)
    sources = [encoder, *([_dataset(document, data.digest, data.dvc_hash)] if data is not None else [])]
    document.made(
        _model(document, f"{model.name}/{model.version}", model.weights_sha256), runs.get("finetune"), sources
    )


def _tell_map(document: _Document, made: MapFacts, model: ModelFacts | None, runs: Mapping[str, RunFacts]) -> None:
    scenes = [_scene(document, scene) for scene in made.scenes]
    weights = [_model(document, f"{model.name}/{model.version}", model.weights_sha256)] if model is not None else []
    infer = runs.get("infer")
    tiles = document.entity(
        "tiles", infer.digest if infer else made.digest, f"{made.tiles} tiles", {"count": made.tiles}
    )
    document.made(tiles, infer, [*weights, *scenes])
    whole = _map(document, made.id, made.digest)
    document.made(whole, runs.get("postprocess"), [tiles])
    for name, sha256 in made.products.items():
        product = document.entity("product", f"{made.id} {name}", name, {"sha256": sha256})
        document.relate("hadMember", collection=whole, entity=product)


def _tell_touched(document: _Document, report: AuditReport) -> None:
    """What was made from a thing, derived from it; the runs in between are those of other reports."""
    subject = _subject(document, report)
    if subject is None or report.touched is None:
        return
    for data in report.touched.datasets:
        document.made(_dataset(document, data.digest, data.dvc_hash), None, [subject])
    for model in report.touched.models:
        document.made(_model(document, f"{model.name}/{model.version}", model.weights_sha256), None, [subject])
    for made in report.touched.maps:
        document.made(_map(document, made.id, made.digest), None, [subject])


def _subject(document: _Document, report: AuditReport) -> str | None:
    if report.scenes:
        return _scene(document, report.scenes[0])
    if report.labels:
        file = report.labels[0]
        return document.entity("labels", file.sha256, file.name, {"name": file.name, "sha256": file.sha256})
    if report.encoder is not None:
        base = report.encoder
        told = {"source": base.source, "sha256": base.sha256, "licence": base.licence}
        return document.entity("encoder", base.sha256 or f"{base.encoder} {base.source}", base.encoder, told)
    if report.map is None and report.model is not None:
        return _model(document, f"{report.model.name}/{report.model.version}", report.model.weights_sha256)
    if report.map is None and report.dataset is not None:
        return _dataset(document, report.dataset.digest, report.dataset.dvc_hash)
    return None


def _scene(document: _Document, scene: SceneFacts) -> str:
    told = {"modality": scene.modality, "catalogue": scene.catalogue, "acquired": _typed(_moment(scene.acquired))}
    return document.entity("scene", f"{scene.modality} {scene.id}", scene.id, told)


def _dataset(document: _Document, digest: str, dvc_hash: str | None) -> str:
    return document.entity("dataset", digest, f"dataset {digest[:16]}", {"digest": digest, "dvc": dvc_hash})


def _model(document: _Document, name: str, weights: str) -> str:
    return document.entity("model", weights, f"model {name}", {"mlflow": f"models:/{name}", "weights_sha256": weights})


def _map(document: _Document, id: str, digest: str) -> str:
    return document.entity("map", id, id, {"digest": digest})


def _run(run: RunFacts) -> str:
    return named("run", f"{run.stage} {run.key}")


def named(kind: str, id: str) -> str:
    """A qualified name with nothing in it that a reader could stumble over."""
    return f"{PREFIX}:{kind}-{re.sub(r'[^A-Za-z0-9._-]+', '-', id)}"


def _moment(value: Any) -> str | None:
    return value.isoformat() if value is not None else None


def _typed(moment: str | None) -> dict[str, str] | None:
    return {"$": moment, "type": DATETIME} if moment is not None else None
