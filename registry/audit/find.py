"""What is this thing to the registry: a map, a model, a dataset version, labels, a scene, a base encoder?

A file is known by its bytes, else by what it says of itself (tags), else, tags stripped or compressed anew, by its
pixels. A name is a map's id, a model `name/3`, a digest or DVC hash, a scene's id, or that of an encoder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session, joinedload

from olmoearth_core.digest import sha256_file
from registry.audit.report import FoundBy, Kind
from registry.audit.thing import MAP_ID, Thing
from registry.mlflow.models import get_model
from registry.tables import schema
from registry.workspace import Workspace

MODEL = re.compile(r"(?:models:/)?(?P<name>[^/@]+)(?:/(?P<version>\d+)|[/@](?P<alias>[A-Za-z][\w.-]*))")
"""As MLflow writes it, or shorter: models:/forest/3, forest/3, forest@champion."""
DIGEST = re.compile(r"[0-9a-f]{8,64}")
WHOLE_DIGEST = 64
DVC_HASH = re.compile(r"[0-9a-f]{32}(\.dir)?")
CHECKPOINTS = (".safetensors", ".pth", ".pt", ".ckpt")

_ENCODER = joinedload(schema.ModelVersion.base_encoder)
_DATASET = (
    joinedload(schema.DatasetVersion.project),
    joinedload(schema.DatasetVersion.run),
    joinedload(schema.DatasetVersion.export_run),
    joinedload(schema.DatasetVersion.label_set),
)
_MODEL = (
    joinedload(schema.ModelVersion.project),
    joinedload(schema.ModelVersion.run),
    joinedload(schema.ModelVersion.dataset).options(*_DATASET),
    _ENCODER,
)
_MAP = (
    joinedload(schema.Map.project),
    joinedload(schema.Map.run),
    joinedload(schema.Map.tiles_run),
    joinedload(schema.Map.model).options(*_MODEL),
)
TABLES: dict[Kind, tuple[Any, tuple[Any, ...]]] = {
    "map": (schema.Map, _MAP),
    "model": (schema.ModelVersion, _MODEL),
    "dataset": (schema.DatasetVersion, _DATASET),
    "scene": (schema.Scene, ()),
    "labels": (schema.LabelFile, ()),
    "encoder": (schema.BaseEncoder, ()),
}
"""Kind -> (table, what comes with its rows: all that a thing was made of, in one query)."""


@dataclass(frozen=True)
class Found:
    """What was found."""

    kind: Kind
    by: FoundBy
    rows: Sequence[Any]
    """Rows of `schema`, one of a map. All else may be several: a scene in two modalities, a file in many label sets,
    one dataset in two projects; the first is meant, and of what was made all are asked."""
    part: str = ""
    """Which file of it was asked about, "map.tif" or "tile 0_0.tif"; empty where it was named, or is no file of it."""

    @property
    def map(self) -> schema.Map | None:
        """The map, where it is one."""
        return self.rows[0] if self.kind == "map" else None

    @property
    def name(self) -> str:
        """What people call it."""
        row = self.rows[0]
        match self.kind:
            case "map":
                return str(row.name)
            case "model":
                return f"model {row.mlflow_name}/{row.mlflow_version}"
            case "dataset":
                return f"dataset {row.digest[:16]} of {row.project.name}"
            case "encoder":
                return f"base encoder {row.encoder}, {row.source}"
            case kind:
                return f"{kind} {row.name}"


def find(session: Session, workspace: Workspace, thing: Thing) -> Found | None:
    """What `thing` is to the registry; None where it knows nothing of it.

    Raises:
        AuditError: a file that cannot be read.
        ModelError: an alias was asked about, and MLflow does not answer.
    """
    if thing.path is None:
        return _by_name(session, workspace, thing.asked.strip())
    ways = (_by_bytes, _by_manifest, _by_claims, _by_pixels)
    found = next((found for way in ways if (found := way(session, thing)) is not None), None)
    return found if found is None or found.kind not in ("model", "dataset") else _nearest_first(found, thing.path)


def _nearest_first(found: Found, path: Path) -> Found:
    """Of equal models or datasets that two projects made, the one of the project around the file is meant."""
    around = {str(folder) for folder in (path, *path.parents)}
    return replace(found, rows=sorted(found.rows, key=lambda row: row.run.project_folder not in around))


def _by_bytes(session: Session, thing: Thing) -> Found | None:
    digests = _checkpoints(thing) if thing.file is None else [thing.sha256 or ""]
    return _by_content(session, digests, "checksum", thing.claims.get(MAP_ID))


def _by_content(session: Session, digests: list[str], by: FoundBy, claimed: str | None = None) -> Found | None:
    """A product of a map, a tile, weights, labels; of several maps the one that the file itself names."""
    first = (schema.Map.name == claimed).desc(), schema.Map.id.desc()
    for table, part in ((schema.Product, "{}"), (schema.Tile, "tile {}")):
        wanted = select(schema.Map, table.name).join(table).where(table.sha256.in_(digests)).options(*_MAP)
        if (row := session.execute(wanted.order_by(*first).limit(1)).first()) is not None:
            return Found("map", by, [row[0]], part.format(row[1]))
    wanted_rows: dict[Kind, ColumnElement[bool]] = {
        "model": schema.ModelVersion.weights_sha256.in_(digests),
        "labels": schema.LabelFile.sha256.in_(digests),
        "encoder": schema.BaseEncoder.sha256.in_(digests),
    }
    for kind, which in wanted_rows.items():
        if rows := _rows(session, kind, which):
            return Found(kind, by, rows, "weights" if kind != "labels" else rows[0].name)
    return None


def _checkpoints(thing: Thing) -> list[str]:
    """Digests of the weights in a folder that is no outputs of a stage: a download of MLflow's, a base encoder."""
    if thing.path is None or thing.manifest is not None:
        return []
    inside = (path for pattern in ("*", "*/*", "*/*/*") for path in sorted(thing.path.glob(pattern)))
    return [sha256_file(path) for path in inside if path.suffix.lower() in CHECKPOINTS and path.is_file()]


def _by_manifest(session: Session, thing: Thing) -> Found | None:
    """A folder of outputs, or a file of one: by the digest of what its manifest lists."""
    if thing.manifest is None:
        return None
    folder, manifest = thing.manifest
    digest, stage = manifest.outputs_digest, manifest.stage
    runs = list(session.scalars(select(schema.Run.id).where(schema.Run.stage == stage, schema.Run.digest == digest)))
    part = thing.file.relative_to(folder).as_posix() if thing.file is not None else f"the folder {folder.name}"
    wanted: dict[str, tuple[Kind, ColumnElement[bool]]] = {
        "postprocess": ("map", schema.Map.digest == digest),
        "infer": ("map", schema.Map.tiles_run_id.in_(runs)),
        "finetune": ("model", schema.ModelVersion.digest == digest),
        "preprocess": ("dataset", schema.DatasetVersion.digest == digest),
        "export": ("dataset", schema.DatasetVersion.export_run_id.in_(runs)),
    }
    if stage not in wanted:
        return None
    kind, which = wanted[stage]
    rows = _rows(session, kind, which)
    return Found(kind, "checksum", rows, part) if rows else None


def _by_claims(session: Session, thing: Thing) -> Found | None:
    """The map that the file's tags name; which of its products the file shows, where the pixels are one's."""
    claimed = thing.claims.get(MAP_ID)
    if claimed is None:
        return None
    named = schema.Map.name == claimed
    if (row := _product_of(session, thing, named)) is not None:
        return Found("map", "tags", [row[0]], row[1])
    rows = _rows(session, "map", named)
    return Found("map", "tags", rows) if rows else None


def _by_pixels(session: Session, thing: Thing) -> Found | None:
    if thing.claims.get(MAP_ID) is not None:  # it says that it is another map, which the registry does not know
        return None
    row = _product_of(session, thing)
    return Found("map", "pixels", [row[0]], row[1]) if row is not None else None


def _product_of(session: Session, thing: Thing, *which: ColumnElement[bool]) -> tuple[schema.Map, str] | None:
    """The newest map, and its product, that shows the same pixels."""
    if thing.pixels is None:  # a comparison with None would be true of every product that is no raster
        return None
    same = schema.Product.pixels_sha256 == thing.pixels
    wanted = select(schema.Map, schema.Product.name).join(schema.Product).where(same, *which)
    row = session.execute(wanted.options(*_MAP).order_by(schema.Map.id.desc()).limit(1)).first()
    return (row[0], row[1]) if row is not None else None


def _by_name(session: Session, workspace: Workspace, name: str) -> Found | None:
    if len(name) == WHOLE_DIGEST and DIGEST.fullmatch(name) and (found := _by_content(session, [name], "name")):
        return found
    for kind, which in _meanings(session, workspace, name):
        if rows := _rows(session, kind, *which):
            same = rows if kind in ("scene", "labels", "encoder") else [r for r in rows if r.digest == rows[0].digest]
            return Found(kind, "name", same)
    return None


def _meanings(session: Session, workspace: Workspace, name: str) -> Iterator[tuple[Kind, list[ColumnElement[bool]]]]:
    """What a name can mean, the likeliest first."""
    yield "map", [schema.Map.name == name]
    if parts := MODEL.fullmatch(name):
        version = parts["version"] or _version(session, workspace, parts["name"], parts["alias"])
        yield "model", [schema.ModelVersion.mlflow_name == parts["name"], schema.ModelVersion.mlflow_version == version]
    if DVC_HASH.fullmatch(name):
        yield "dataset", [schema.DatasetVersion.dvc_hash == f"{name.removesuffix('.dir')}.dir"]
    if DIGEST.fullmatch(name):  # the beginning is enough: names in print are cut
        yield "dataset", [schema.DatasetVersion.digest.startswith(name)]
        model = schema.ModelVersion
        yield "model", [or_(model.digest.startswith(name), model.weights_sha256.startswith(name))]
    yield "scene", [schema.Scene.name == name]
    yield "labels", [schema.LabelFile.name == name]
    yield "encoder", [or_(schema.BaseEncoder.source == name, schema.BaseEncoder.encoder == name)]


def _version(session: Session, workspace: Workspace, name: str, alias: str) -> str | None:
    """The version that bears an alias in MLflow, which need not be asked of a name that is no model's."""
    known = select(schema.ModelVersion.id).where(schema.ModelVersion.mlflow_name == name).limit(1)
    return get_model(workspace, name, alias).version if session.scalars(known).first() is not None else None


def _rows(session: Session, kind: Kind, *which: ColumnElement[bool]) -> list[Any]:
    """The rows that are meant, the newest first; of maps, which bear their own names, only that."""
    table, with_it = TABLES[kind]
    newest = table.label_set_id if kind == "labels" else table.id
    wanted = select(table).where(*which).options(*with_it).order_by(newest.desc())
    return list(session.scalars(wanted.limit(1) if kind == "map" else wanted))
