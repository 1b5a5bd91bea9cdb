"""A registry in PostgreSQL after years of a ministry: as many maps as asked for, each with 100 tiles and 100 scenes.

The rows are made by the server itself, so that a million of each take a minute. One map of the middle is whole: its
runs' keys follow from their settings and inputs, and `write_map` gives it a file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from sqlalchemy import ColumnElement, Connection, select, text, update
from sqlalchemy.orm import Session

from olmoearth_core.digest import sha256_file
from olmoearth_core.manifest import stage_key
from registry.fingerprint import pixels_sha256
from registry.tables import schema
from registry.tables.database import LEDGER, Database, change

TILES, SCENES, PRODUCTS = 100, 100, 10
"""Of a map."""
MAPS_OF_A_MODEL, MODELS_OF_A_DATASET, DATASETS_OF_LABELS, MODELS_OF_AN_ENCODER = 25, 4, 2, 20
PROJECTS, SCENES_OF_A_DATASET, MAPS_OF_A_SCENE = 20, 200, 50

_TABLES = """
INSERT INTO projects (id, name, created)
  SELECT p, 'project-' || p, now() FROM generate_series(1, {projects}) p;
INSERT INTO scenes (id, catalogue, modality, name, acquired, cloud_cover)
  SELECT s, 'https://stac.example/v1', 'sentinel2_l2a', 'S2A_' || s, timestamp '2020-01-01' + s * interval '1 hour',
         s % 80 FROM generate_series(0, {scenes} - 1) s;
INSERT INTO label_sets (id, project_id, digest, created)
  SELECT l, 1 + l % {projects}, {hash}('labels ' || l), now() FROM generate_series(0, {labels} - 1) l;
INSERT INTO label_files (label_set_id, name, sha256)
  SELECT l, 'labels/' || f || '.geojson', {hash}('label file ' || l || ' ' || f)
  FROM generate_series(0, {labels} - 1) l, generate_series(1, 3) f;
INSERT INTO base_encoders (id, digest, encoder, source, sha256, licence)
  SELECT e, {hash}('base ' || e), 'v1.1-nano', 'checkpoint-' || e, {hash}('checkpoint ' || e), 'OlmoEarth'
  FROM generate_series(0, {encoders} - 1) e;
"""
_RUNS = """
INSERT INTO runs (id, project_id, stage, key, invocation, status, digest, stage_version, settings, inputs, summary,
                  project_folder, folder, platform_version, code_commit, code_dirty, who, host, started, finished,
                  recorded)
  SELECT {first} + n, 1 + {project} % {projects}, '{stage}', {hash}('{stage} key ' || n), 'call', 'computed',
         {hash}('{stage} ' || n), 1, jsonb_build_object('notes', repeat('x', 800)), {inputs}, '{{}}',
         '/nowhere/project-' || (1 + {project} % {projects}), '{stage}/' || n, '0.1.0', 'c0ffee', false, 'ministry',
         'host', now(), now(), now()
  FROM generate_series(0, {count} - 1) n;
"""
_MADE = """
INSERT INTO dataset_versions (id, project_id, run_id, export_run_id, label_set_id, digest, dvc_hash, created)
  SELECT d, 1 + d / {per_labels} % {projects}, {preprocess} + d, {export} + d, d / {per_labels},
         {hash}('preprocess ' || d), md5('dataset ' || d) || '.dir', now() FROM generate_series(0, {datasets} - 1) d;
INSERT INTO dataset_scenes (dataset_id, scene_id)
  SELECT d, (d * 37 + k) % {scenes} FROM generate_series(0, {datasets} - 1) d, generate_series(0, {trained_on} - 1) k;
INSERT INTO model_versions (id, project_id, run_id, dataset_id, base_encoder_id, digest, weights_sha256, encoder, base,
                            metrics, mlflow_name, mlflow_version, created)
  SELECT m, 1 + m / {per_dataset} / {per_labels} % {projects}, {finetune} + m, m / {per_dataset}, m / {per_encoder},
         {hash}('finetune ' || m), {hash}('weights ' || m), 'v1.1-nano', '{{"source": "checkpoint"}}', '{{}}',
         'project-' || (1 + m / {per_dataset} / {per_labels} % {projects}), m::text, now()
  FROM generate_series(0, {models} - 1) m;
INSERT INTO maps (id, project_id, run_id, tiles_run_id, model_id, name, digest, date, created)
  SELECT n, 1 + n / {per_model} / {per_dataset} / {per_labels} % {projects}, {postprocess} + n, {infer} + n,
         n / {per_model}, 'map-' || n, {hash}('postprocess ' || n), date '2020-01-01' + n % 2000, now()
  FROM generate_series(0, {maps} - 1) n;
INSERT INTO map_scenes (map_id, scene_id)
  SELECT n, (n * 41 + k * 7) % {scenes} FROM generate_series(0, {maps} - 1) n, generate_series(0, {shown} - 1) k
  ON CONFLICT DO NOTHING;
INSERT INTO tiles (map_id, name, key, run_id, sha256, bytes)
  SELECT n, t % 10 || '_' || t / 10 || '.tif', {hash}('tile key ' || n || ' ' || t), {infer} + n,
         {hash}('tile ' || n || ' ' || t), 1000000
  FROM generate_series(0, {maps} - 1) n, generate_series(0, {tiles} - 1) t;
INSERT INTO products (map_id, name, sha256, bytes, pixels_sha256)
  SELECT n, CASE p WHEN 0 THEN 'map.tif' ELSE 'product-' || p END, {hash}('product ' || n || ' ' || p), 1000000,
         CASE WHEN p < 4 THEN {hash}('pixels ' || n || ' ' || p) END
  FROM generate_series(0, {maps} - 1) n, generate_series(0, {products} - 1) p;
"""


@dataclass(frozen=True)
class ManyMaps:
    """What was filled in."""

    url: str
    maps: int

    @property
    def whole(self) -> int:
        """The number of the map whose keys hold, and which has a file."""
        return self.maps // 2

    @property
    def project(self) -> str:
        """That the whole map is of."""
        return f"project-{1 + self.labels % PROJECTS}"

    @property
    def model(self) -> int:
        return self.whole // MAPS_OF_A_MODEL

    @property
    def dataset(self) -> int:
        return self.model // MODELS_OF_A_DATASET

    @property
    def labels(self) -> int:
        return self.dataset // DATASETS_OF_LABELS

    @property
    def encoder(self) -> int:
        return self.model // MODELS_OF_AN_ENCODER


def digest(of: str) -> str:
    """The digest that the server gives: `product <map> <number>`, `tile <map> <number>`, `weights <model>`, ..."""
    return hashlib.sha256(of.encode()).hexdigest()


def fill(url: str, maps: int) -> ManyMaps:
    """Fill the empty registry database `url` (PostgreSQL)."""
    many = ManyMaps(url, maps)
    database = Database(url)
    try:
        with database.engine.begin() as connection:
            _insert(connection, maps)
            _make_whole(connection, many)
        _vouch(database, many)
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
    finally:
        database.close()
    return many


def _insert(connection: Connection, maps: int) -> None:
    connection.execute(
        text("SET LOCAL session_replication_role = replica")
    )  # references hold, and need no look-up each
    connection.execute(
        text(
            "CREATE FUNCTION pg_temp.hash(text) RETURNS text LANGUAGE sql IMMUTABLE "
            "AS $$ SELECT encode(sha256(convert_to($1, 'UTF8')), 'hex') $$"
        )
    )
    models = -(-maps // MAPS_OF_A_MODEL)
    datasets = -(-models // MODELS_OF_A_DATASET)
    numbers: dict[str, Any] = {
        "hash": "pg_temp.hash",
        "projects": PROJECTS,
        "maps": maps,
        "models": models,
        "datasets": datasets,
        "labels": -(-datasets // DATASETS_OF_LABELS),
        "encoders": -(-models // MODELS_OF_AN_ENCODER),
        "scenes": max(maps * SCENES // MAPS_OF_A_SCENE, 7 * SCENES),
        "per_model": MAPS_OF_A_MODEL,
        "per_dataset": MODELS_OF_A_DATASET,
        "per_labels": DATASETS_OF_LABELS,
        "per_encoder": MODELS_OF_AN_ENCODER,
        "trained_on": SCENES_OF_A_DATASET,
        "shown": SCENES,
        "tiles": TILES,
        "products": PRODUCTS,
    }
    _execute(connection, _TABLES, numbers)
    digest = "{hash}('{stage} ' || {number})"
    dataset, model = f"n / {MODELS_OF_A_DATASET}", f"n / {MAPS_OF_A_MODEL}"
    stages = (
        ("export", datasets, None, "n", f"n / {DATASETS_OF_LABELS}"),
        ("preprocess", datasets, "export", "n", f"n / {DATASETS_OF_LABELS}"),
        ("finetune", models, "preprocess", dataset, f"{dataset} / {DATASETS_OF_LABELS}"),
        ("infer", maps, "finetune", model, f"{model} / {MODELS_OF_A_DATASET} / {DATASETS_OF_LABELS}"),
        ("postprocess", maps, "infer", "n", f"{model} / {MODELS_OF_A_DATASET} / {DATASETS_OF_LABELS}"),
    )
    first = 0
    for stage, count, before, number, project in stages:
        read = (
            f"'{before}', " + digest.format(hash="pg_temp.hash", stage=before, number=f"({number})") if before else ""
        )
        more = {"stage": stage, "count": count, "first": first, "project": project}
        _execute(connection, _RUNS, {**numbers, **more, "inputs": f"jsonb_build_object({read})"})
        numbers[stage] = first
        first += count
    _execute(connection, _MADE, numbers)


def _execute(connection: Connection, statements: str, numbers: dict[str, Any]) -> None:
    # past SQLAlchemy, which would take each % for a parameter
    connection.connection.cursor().execute(statements.format(**numbers))


def _make_whole(connection: Connection, many: ManyMaps) -> None:
    """Give the runs behind the map of the middle the keys that follow from their rows."""
    behind = text(
        "SELECT r.id, r.stage, r.settings, r.inputs FROM runs r WHERE r.id IN (SELECT unnest(ARRAY[m.run_id, "
        "m.tiles_run_id, v.run_id, d.run_id, d.export_run_id]) FROM maps m JOIN model_versions v ON v.id = m.model_id "
        "JOIN dataset_versions d ON d.id = v.dataset_id WHERE m.id = :id)"
    )
    for run in connection.execute(behind, {"id": many.whole}).all():
        values = {"key": stage_key(run.stage, 1, run.settings, run.inputs), "id": run.id}
        connection.execute(text("UPDATE runs SET key = :key WHERE id = :id"), values)


def _vouch(database: Database, many: ManyMaps) -> None:
    """Have events vouch for the maps before the whole one, as many as may share its scenes, as if stages wrote them."""
    made = schema.Map.__table__
    for number in range(max(many.whole - 20, 0), many.whole + 1):
        with database.write("postprocess", map=f"map-{number}") as session:
            row = session.execute(select(made).where(made.c.id == number)).one()
            model = session.get_one(schema.ModelVersion, row.model_id)
            dataset = session.get_one(schema.DatasetVersion, model.dataset_id)
            runs = (row.run_id, row.tiles_run_id, model.run_id, dataset.run_id, dataset.export_run_id)
            shown = select(schema.MapScene.scene_id).where(schema.MapScene.map_id == number)
            learned = select(schema.DatasetScene.scene_id).where(schema.DatasetScene.dataset_id == dataset.id)
            for table, which in (
                (schema.Project, schema.Project.id == row.project_id),
                (schema.Run, schema.Run.id.in_(runs)),
                (schema.Scene, schema.Scene.id.in_(shown) | schema.Scene.id.in_(learned)),
                (schema.LabelSet, schema.LabelSet.id == dataset.label_set_id),
                (schema.LabelFile, schema.LabelFile.label_set_id == dataset.label_set_id),
                (schema.BaseEncoder, schema.BaseEncoder.id == model.base_encoder_id),
                (schema.DatasetVersion, schema.DatasetVersion.id == dataset.id),
                (schema.DatasetScene, schema.DatasetScene.dataset_id == dataset.id),
                (schema.ModelVersion, schema.ModelVersion.id == model.id),
                (schema.Map, schema.Map.id == number),
                (schema.MapScene, schema.MapScene.map_id == number),
                (schema.Tile, schema.Tile.map_id == number),
                (schema.Product, schema.Product.map_id == number),
            ):
                _cover(session, table.__table__, which)


def _cover(session: Session, table: Any, which: ColumnElement[bool]) -> None:
    """Take rows that no event vouches for into the event of the session."""
    ledger = session.info[LEDGER]
    session.execute(update(table).where(which, table.c.event.is_(None)).values(event=ledger.event))
    ledger.wrote(table, session.execute(select(table).where(which, table.c.event == ledger.event)).mappings().all())


def write_map(many: ManyMaps, path: Path) -> Path:
    """Write map.tif of the whole map, with its tags, and tell the registry its checksums."""
    database = Database(many.url)
    try:
        with database.write("postprocess", map=f"map-{many.whole}") as session:
            made = session.get_one(schema.Map, many.whole)
            assert made.model is not None
            tags = {"MAP_ID": made.name, "PROJECT": made.project.name, "PROVENANCE": made.run.key}
            _write_raster(path, {**tags, "MODEL": made.model.weights_sha256})
            product = session.get_one(schema.Product, (many.whole, "map.tif"))
            change(session, product, sha256=sha256_file(path), pixels_sha256=pixels_sha256(path))
    finally:
        database.close()
    return path


def _write_raster(path: Path, tags: dict[str, str]) -> None:
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "height": 64, "width": 64, "nodata": 255}
    transform = Affine(10, 0, 500000, 0, -10, 5000000)
    with rasterio.open(path, "w", crs="EPSG:32633", transform=transform, **profile) as raster:
        raster.write(np.random.default_rng(0).integers(0, 3, (1, 64, 64), dtype=np.uint8))
        raster.update_tags(**{f"OLMOEARTH_{name}": value for name, value in tags.items()})
