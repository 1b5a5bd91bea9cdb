"""The tables: what came from what, typed. Natural keys make every write idempotent.

A run is one computation of one stage. What a run made (dataset version, model version, map) is named by the digest of
its outputs, the same digest by which the next stage's manifest names its input, so that lineage is a chain of digests.
"""

from __future__ import annotations

import datetime as dt
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from registry.tables.chain_tables import Anchor, Chain, Event, Replacement
from registry.tables.columns import Base, Covered, UtcDateTime

__all__ = [
    "Anchor",
    "Assessment",
    "Base",
    "BaseEncoder",
    "Chain",
    "DatasetScene",
    "DatasetVersion",
    "Evaluation",
    "Event",
    "LabelFile",
    "LabelSet",
    "Map",
    "MapScene",
    "ModelVersion",
    "Product",
    "Project",
    "Promotion",
    "Replacement",
    "Run",
    "Scene",
    "SceneAsset",
    "Tile",
    "UtcDateTime",
]


class Project(Covered, Base):
    """One partner's project, by its name."""

    __tablename__ = "projects"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created: Mapped[datetime]


class Run(Covered, Base):
    """One computation of one stage: what went in, what came out, which code made it, who asked, what it cost."""

    __tablename__ = "runs"
    __table_args__ = (
        UniqueConstraint("project_id", "stage", "key", "invocation"),
        Index("ix_runs_outcome", "project_id", "stage", "digest"),
        Index("ix_runs_key", "key"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    stage: Mapped[str]
    key: Mapped[str]
    """The stage key."""
    invocation: Mapped[str]
    """Names the call that computed it; empty for outputs that were found complete, made elsewhere or before."""
    status: Mapped[str]
    """computed | found."""
    digest: Mapped[str]
    """sha256 of the outputs' names and checksums."""
    stage_version: Mapped[int]
    settings: Mapped[dict[str, Any]]
    """The part of project.yaml that decides the outputs."""
    seed: Mapped[int | None]
    """Of the training; None of a stage that draws nothing."""
    inputs: Mapped[dict[str, Any]]
    """Name of each input file or upstream stage -> digest."""
    summary: Mapped[dict[str, Any]]
    project_folder: Mapped[str]
    """Absolute path of the project on `host`, where the outputs were left, or found."""
    folder: Mapped[str]
    """Folder of the outputs, relative to the project."""
    dvc_hash: Mapped[str | None]
    """DVC's md5 of the outputs (export, preprocess)."""
    platform_version: Mapped[str | None]
    """This and what follows, as far as flow_run, is unknown where the outputs were found: others may have made them."""
    code_commit: Mapped[str | None]
    code_dirty: Mapped[bool | None]
    project_commit: Mapped[str | None]
    project_dirty: Mapped[bool | None]
    project_sha256: Mapped[str | None]
    """Of project.yaml as it was; kept in `store` like every input file."""
    code_sha256: Mapped[str | None]
    """Of the archive of the platform's source that computed it, kept in `store`."""
    store: Mapped[str | None]
    """Folder or s3:// URL where what the run read is kept by its sha256."""
    lock_sha256: Mapped[str | None]
    """Of constraints.txt beside the code; unknown where the platform was installed without it."""
    environment_sha256: Mapped[str | None]
    """Of the names and versions of all installed packages."""
    who: Mapped[str | None]
    host: Mapped[str | None]
    hardware: Mapped[dict[str, Any] | None]
    """processor, cores, memory_bytes and gpus of the host."""
    flow_run: Mapped[str | None]
    """Prefect's flow run, where there was one."""
    started: Mapped[datetime | None]
    finished: Mapped[datetime | None]
    recorded: Mapped[datetime]
    wall_seconds: Mapped[float | None]
    device: Mapped[str | None]
    device_seconds: Mapped[float | None]
    bytes_read: Mapped[int | None] = mapped_column(BigInteger)
    bytes_written: Mapped[int | None] = mapped_column(BigInteger)

    project: Mapped[Project] = relationship()


class Scene(Covered, Base):
    """One acquisition of a catalogue."""

    __tablename__ = "scenes"
    __table_args__ = (UniqueConstraint("catalogue", "modality", "name"), Index("ix_scenes_name", "name"))

    id: Mapped[int] = mapped_column(primary_key=True)
    catalogue: Mapped[str]
    modality: Mapped[str]
    name: Mapped[str]
    """The STAC Item's id."""
    acquired: Mapped[datetime]
    cloud_cover: Mapped[float | None]
    """Per cent, as the catalogue says."""

    assets: Mapped[list[SceneAsset]] = relationship(order_by="SceneAsset.name")


class SceneAsset(Covered, Base):
    """One file of a scene, as it was when a stage first read it; a file that changed since is another row."""

    __tablename__ = "scene_assets"

    scene_id: Mapped[int] = mapped_column(ForeignKey("scenes.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    """Band, or "mask"."""
    href: Mapped[str] = mapped_column(primary_key=True)
    """Where it was read: a URL or an absolute path."""
    checksum: Mapped[str] = mapped_column(primary_key=True)
    """sha256:<hex>, multihash:<hex> or etag:<value>; empty where none is known."""
    accessed: Mapped[datetime]
    """When a stage that read it was first recorded."""


class LabelSet(Covered, Base):
    """The label files that a training set was made from, named by their names and checksums together."""

    __tablename__ = "label_sets"
    __table_args__ = (UniqueConstraint("project_id", "digest"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    digest: Mapped[str]
    """sha256 over the names and checksums of the files."""
    project_commit: Mapped[str | None]
    """Git revision of the project when they were first used; None where nobody knows."""
    project_dirty: Mapped[bool | None]
    created: Mapped[datetime]

    project: Mapped[Project] = relationship()
    files: Mapped[list[LabelFile]] = relationship(order_by="LabelFile.name")


class LabelFile(Covered, Base):
    """One file of a label set."""

    __tablename__ = "label_files"

    label_set_id: Mapped[int] = mapped_column(ForeignKey("label_sets.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    """As project.yaml names it."""
    sha256: Mapped[str] = mapped_column(index=True)
    dvc_hash: Mapped[str | None]
    """Where DVC tracks it (a .dvc file beside it): its md5."""


class DatasetVersion(Covered, Base):
    """A training set, named by the digest of its outputs and by DVC's hash."""

    __tablename__ = "dataset_versions"
    __table_args__ = (UniqueConstraint("project_id", "digest"), Index("ix_dataset_versions_dvc_hash", "dvc_hash"))

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"))
    export_run_id: Mapped[int | None] = mapped_column(ForeignKey("runs.id"))
    label_set_id: Mapped[int | None] = mapped_column(ForeignKey("label_sets.id"), index=True)
    digest: Mapped[str]
    dvc_hash: Mapped[str | None]
    remote: Mapped[str | None]
    """URL or folder of the DVC remote that it is pushed to."""
    project_commit: Mapped[str | None]
    """Git revision of the project when it was made; None where nobody knows."""
    project_dirty: Mapped[bool | None]
    created: Mapped[datetime]

    project: Mapped[Project] = relationship()
    run: Mapped[Run] = relationship(foreign_keys=run_id)
    export_run: Mapped[Run | None] = relationship(foreign_keys=export_run_id)
    label_set: Mapped[LabelSet | None] = relationship()
    scenes: Mapped[list[Scene]] = relationship(secondary="dataset_scenes", order_by=Scene.acquired)


class BaseEncoder(Covered, Base):
    """The weights that a training began with."""

    __tablename__ = "base_encoders"

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(unique=True)
    """sha256 over all that follows."""
    encoder: Mapped[str]
    """Name of the architecture, for example v1.1-nano."""
    source: Mapped[str]
    """Checkpoint as written in project.yaml, or "random"."""
    revision: Mapped[str | None]
    sha256: Mapped[str | None] = mapped_column(index=True)
    licence: Mapped[str]
    seed: Mapped[int | None]
    """Of random weights."""


class ModelVersion(Covered, Base):
    """A trained model: its weights, its scores, and the version that MLflow knows it by."""

    __tablename__ = "model_versions"
    __table_args__ = (UniqueConstraint("project_id", "digest"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"))
    dataset_id: Mapped[int | None] = mapped_column(ForeignKey("dataset_versions.id"), index=True)
    base_encoder_id: Mapped[int | None] = mapped_column(ForeignKey("base_encoders.id"), index=True)
    digest: Mapped[str]
    weights_sha256: Mapped[str] = mapped_column(index=True)
    encoder: Mapped[str]
    base: Mapped[dict[str, Any]]
    """Where the encoder's weights came from before training, as the model card says."""
    metrics: Mapped[dict[str, Any]]
    mlflow_name: Mapped[str]
    mlflow_version: Mapped[str]
    mlflow_run: Mapped[str | None]
    source: Mapped[str | None]
    """Where MLflow keeps its files: a folder or URL."""
    created: Mapped[datetime]

    project: Mapped[Project] = relationship()
    run: Mapped[Run] = relationship()
    dataset: Mapped[DatasetVersion | None] = relationship()
    base_encoder: Mapped[BaseEncoder | None] = relationship()
    promotions: Mapped[list[Promotion]] = relationship(back_populates="model", order_by="Promotion.id")
    evaluations: Mapped[list[Evaluation]] = relationship(order_by="Evaluation.id")


class Evaluation(Covered, Base):
    """How well a model version did on one split of a dataset version, for one task."""

    __tablename__ = "evaluations"
    __table_args__ = (UniqueConstraint("model_id", "dataset_digest", "split", "task", "digest"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("model_versions.id"))
    dataset_id: Mapped[int | None] = mapped_column(ForeignKey("dataset_versions.id"), index=True)
    """None where the registry does not know the dataset version."""
    dataset_digest: Mapped[str]
    split: Mapped[str]
    """validation | test."""
    task: Mapped[str]
    """main, or the name of an auxiliary task."""
    digest: Mapped[str]
    """sha256 of the scores and intervals."""
    scores: Mapped[dict[str, Any]]
    intervals: Mapped[dict[str, Any] | None]
    """low and high at 95 %, by the same keys; None where there are none."""
    evaluator: Mapped[str | None]
    """Who or what judged: "finetune by <user>", "promote by <user>", a flow; None where it was found."""
    run_id: Mapped[int | None] = mapped_column(ForeignKey("runs.id"))
    created: Mapped[datetime]

    dataset: Mapped[DatasetVersion | None] = relationship()


class Promotion(Covered, Base):
    """An alias given to a model version, taken, or refused: intended first, then confirmed or failed."""

    __tablename__ = "promotions"

    id: Mapped[int] = mapped_column(primary_key=True)
    request: Mapped[str] = mapped_column(unique=True)
    """Names the decision; telling the registry twice of one leaves one row."""
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), index=True)
    model_id: Mapped[int | None] = mapped_column(ForeignKey("model_versions.id"), index=True)
    """The model version that gets the alias; None where the registry does not know it, or the alias is taken away."""
    action: Mapped[str]
    """promote | rollback | remove."""
    alias: Mapped[str]
    """champion | challenger."""
    from_version: Mapped[str | None]
    """MLflow's version that had the alias before."""
    to_version: Mapped[str | None]
    """MLflow's version that has it after; None where the alias is taken away."""
    who: Mapped[str]
    """Who or what decided."""
    why: Mapped[str]
    gates: Mapped[dict[str, Any]]
    """Gate -> its result, as the gates' code leaves it."""
    state: Mapped[str]
    """intended | confirmed | failed."""
    reason: Mapped[str | None]
    """Of a failed one: what stood in the way."""
    intended: Mapped[datetime]
    settled: Mapped[datetime | None]
    """When it was confirmed or failed."""

    project: Mapped[Project] = relationship()
    model: Mapped[ModelVersion | None] = relationship(back_populates="promotions")


class Map(Covered, Base):
    """A map, named by its id and the digest of its products."""

    __tablename__ = "maps"
    __table_args__ = (UniqueConstraint("project_id", "name", "digest"), Index("ix_maps_name", "name"))

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), index=True)
    tiles_run_id: Mapped[int | None] = mapped_column(ForeignKey("runs.id"), index=True)
    model_id: Mapped[int | None] = mapped_column(ForeignKey("model_versions.id"), index=True)
    name: Mapped[str]
    """The map id that the GeoTIFF and the STAC Item carry."""
    digest: Mapped[str]
    date: Mapped[dt.date]
    created: Mapped[datetime]

    project: Mapped[Project] = relationship()
    run: Mapped[Run] = relationship(foreign_keys=run_id)
    tiles_run: Mapped[Run | None] = relationship(foreign_keys=tiles_run_id)
    model: Mapped[ModelVersion | None] = relationship()
    scenes: Mapped[list[Scene]] = relationship(secondary="map_scenes", order_by=Scene.acquired)
    products: Mapped[list[Product]] = relationship(order_by="Product.name")
    tiles: Mapped[list[Tile]] = relationship(order_by="Tile.name")
    assessments: Mapped[list[Assessment]] = relationship(order_by="Assessment.id")


class Tile(Covered, Base):
    """One tile that a map was made of."""

    __tablename__ = "tiles"

    map_id: Mapped[int] = mapped_column(ForeignKey("maps.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    """File name below the folder of the tiles' run."""
    key: Mapped[str | None] = mapped_column(index=True)
    """sha256 of everything that decides its bytes; None of tiles whose record does not say."""
    run_id: Mapped[int | None] = mapped_column(ForeignKey("runs.id"), index=True)
    """The run that first computed this key: a refresh takes tiles of earlier maps."""
    sha256: Mapped[str] = mapped_column(index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)


class Product(Covered, Base):
    """One file of a map."""

    __tablename__ = "products"

    map_id: Mapped[int] = mapped_column(ForeignKey("maps.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    """File name below the map's folder."""
    sha256: Mapped[str] = mapped_column(index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    pixels_sha256: Mapped[str | None] = mapped_column(index=True)
    """Of a raster's pixels and georeference: finds a copy whose tags were stripped."""


class DatasetScene(Covered, Base):
    """Which scenes a dataset version was made from."""

    __tablename__ = "dataset_scenes"

    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset_versions.id"), primary_key=True)
    scene_id: Mapped[int] = mapped_column(ForeignKey("scenes.id"), primary_key=True, index=True)


class MapScene(Covered, Base):
    """Which scenes a map was made from."""

    __tablename__ = "map_scenes"

    map_id: Mapped[int] = mapped_column(ForeignKey("maps.id"), primary_key=True)
    scene_id: Mapped[int] = mapped_column(ForeignKey("scenes.id"), primary_key=True, index=True)


class Assessment(Covered, Base):
    """What an interpreted reference sample says of a map: accuracy, and areas with their errors."""

    __tablename__ = "assessments"
    __table_args__ = (UniqueConstraint("map_id", "sample_sha256", "answers_sha256"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    map_id: Mapped[int] = mapped_column(ForeignKey("maps.id"))
    sample_sha256: Mapped[str]
    """Of sample.json, the design."""
    answers_sha256: Mapped[str]
    """Of the file with the interpreters' answers."""
    units: Mapped[int]
    """Of the sample."""
    estimates: Mapped[dict[str, Any]]
    """As assessment.json holds them."""
    who: Mapped[str]
    """Who ran the estimate."""
    created: Mapped[datetime]
