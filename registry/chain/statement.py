"""What made a map, as other tools read it: an in-toto statement with SLSA's provenance predicate.

All of it follows from the registry's rows, so that telling twice gives the same bytes. What SLSA has no place for, the
registry's chain, stands under `olmoearth_chain`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from registry.tables import schema

STATEMENT, PREDICATE = "https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"
BUILD_TYPE, BUILDER = "urn:olmoearth:map:v1", "urn:olmoearth:platform"
CHAIN = "olmoearth_chain"

Json = dict[str, Any]


def map_statement(made: schema.Map, chain: str, event: schema.Event) -> Json:
    """The statement of a map.

    Args:
        made: the map, with a session that its lineage can be loaded from.
        chain: name of the registry's chain.
        event: the one that vouches for the map's row.
    """
    stages = _stages(made)
    run = made.run
    return {
        "_type": STATEMENT,
        "subject": [{"name": p.name, "digest": {"sha256": p.sha256}} for p in made.products],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "project": made.project.name,
                    "map": made.name,
                    "date": made.date.isoformat(),
                    "settings": {stage.stage: stage.settings for stage in stages},
                },
                "internalParameters": {
                    "provenance": run.key,
                    "stages": {
                        stage.stage: {"key": stage.key, "version": stage.stage_version, "outputs": stage.digest}
                        for stage in stages
                    },
                },
                "resolvedDependencies": list(_dependencies(made, stages)),
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": _known({"olmoearth-platform": run.platform_version})},
                "metadata": _known(
                    {
                        "invocationId": run.invocation or None,
                        "startedOn": _moment(run.started),
                        "finishedOn": _moment(run.finished),
                    }
                ),
            },
            CHAIN: {
                "chain": chain,
                "position": event.position,
                "before": event.previous,
                "head": event.hash,
                "recorded": _moment(event.recorded),
            },
        },
    }


def _stages(made: schema.Map) -> list[schema.Run]:
    """The runs behind the map, from the map back."""
    runs = [made.run, made.tiles_run]
    if made.model is not None:
        runs.append(made.model.run)
        if (dataset := made.model.dataset) is not None:
            runs += [dataset.run, dataset.export_run]
    return [run for run in runs if run is not None]


def _dependencies(made: schema.Map, stages: list[schema.Run]) -> Iterator[Json]:
    for run in stages:
        if run.code_commit:
            yield {
                "name": f"platform's code of {run.stage}",
                "digest": {"gitCommit": run.code_commit},
                "annotations": {"changed": run.code_dirty},
            }
        if run.project_commit:
            yield {
                "name": f"project of {run.stage}",
                "digest": {"gitCommit": run.project_commit},
                "annotations": {"changed": run.project_dirty},
            }
        if run.lock_sha256:
            yield {"name": f"constraints.txt of {run.stage}", "digest": {"sha256": run.lock_sha256}}
    if made.tiles_run is not None:
        yield {"name": "tiles", "digest": {"sha256": made.tiles_run.digest}}
    if made.model is not None:
        yield from _model(made.model)
    for scene in made.scenes:
        when = _moment(scene.acquired)
        yield {
            "name": scene.name,
            "uri": scene.catalogue,
            "annotations": {"modality": scene.modality, "acquired": when},
        }


def _model(model: schema.ModelVersion) -> Iterator[Json]:
    yield {
        "name": "model weights",
        "uri": f"models:/{model.mlflow_name}/{model.mlflow_version}",
        "digest": {"sha256": model.weights_sha256},
    }
    if (base := model.base_encoder) is not None:
        digest = {"digest": {"sha256": base.sha256}} if base.sha256 else {}
        about = _known({"revision": base.revision, "licence": base.licence, "seed": base.seed})
        yield {"name": f"base encoder {base.encoder}", "uri": base.source, **digest, "annotations": about}
    if (dataset := model.dataset) is not None:
        yield {
            "name": "training set",
            "digest": {"sha256": dataset.digest},
            "annotations": _known({"dvc": dataset.dvc_hash}),
        }
        for file in dataset.label_set.files if dataset.label_set else ():
            yield {"name": file.name, "digest": {"sha256": file.sha256}}


def _moment(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat().replace("+00:00", "Z")


def _known(values: Json) -> Json:
    return {name: value for name, value in values.items() if value is not None}
