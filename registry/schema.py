"""The tables: what came from what, typed. Natural keys make every write idempotent.

A run is one computation of one stage. What a run made (dataset version, model version, map) is named by the digest of
its outputs, the same digest by which the next stage's manifest names its input, so that lineage is a chain of digests.
"""

from __future__ import annotations

import datetime as dt
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Date, DateTime, ForeignKey, Index, MetaData, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC, with its time zone on both databases (SQLite forgets it)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store UTC; a moment without a time zone is refused."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give UTC back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Json = JSON().with_variant(JSONB(), "postgresql")


class Base(DeclarativeBase):
    """Root of the tables; constraints have names so that migrations can speak of them on both databases."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {dict[str, Any]: Json, datetime: UtcDateTime(), dt.date: Date()}  # noqa: RUF012


class Project(Base):
    """One partner's project, by its name."""

    __tablename__ = "projects"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created: Mapped[datetime]


class Run(Base):
    """One computation of one stage: what went in, what came out, which code made it, who asked, what it cost."""

    __tablename__ = "runs"
    __table_args__ = (
        UniqueConstraint("project_id", "stage", "key", "invocation"),
        Index("ix_runs_outcome", "project_id", "stage", "digest"),
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
    lock_sha256: Mapped[str | None]
    """Of constraints.txt beside the code; unknown where the platform was installed without it."""
    environment_sha256: Mapped[str | None]
    """Of the names and versions of all installed packages."""
    who: Mapped[str | None]
    host: Mapped[str | None]
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


class Scene(Base):
    """One acquisition of a catalogue."""

    __tablename__ = "scenes"
    __table_args__ = (UniqueConstraint("catalogue", "modality", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    catalogue: Mapped[str]
    modality: Mapped[str]
    name: Mapped[str]
    """The STAC Item's id."""
    acquired: Mapped[datetime]
    cloud_cover: Mapped[float | None]
    """Per cent, as the catalogue says."""


class DatasetVersion(Base):
    """A training set, named by the digest of its outputs and by DVC's hash."""

    __tablename__ = "dataset_versions"
    __table_args__ = (UniqueConstraint("project_id", "digest"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"))
    export_run_id: Mapped[int | None] = mapped_column(ForeignKey("runs.id"))
    digest: Mapped[str]
    dvc_hash: Mapped[str | None]
    created: Mapped[datetime]

    project: Mapped[Project] = relationship()
    run: Mapped[Run] = relationship(foreign_keys=run_id)
    export_run: Mapped[Run | None] = relationship(foreign_keys=export_run_id)
    scenes: Mapped[list[Scene]] = relationship(secondary="dataset_scenes", order_by=Scene.acquired)


class ModelVersion(Base):
    """A trained model: its weights, its scores, and the version that MLflow knows it by."""

    __tablename__ = "model_versions"
    __table_args__ = (UniqueConstraint("project_id", "digest"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"))
    dataset_id: Mapped[int | None] = mapped_column(ForeignKey("dataset_versions.id"))
    digest: Mapped[str]
    weights_sha256: Mapped[str]
    encoder: Mapped[str]
    base: Mapped[dict[str, Any]]
    """Where the encoder's weights came from before training, as the model card says."""
    metrics: Mapped[dict[str, Any]]
    mlflow_name: Mapped[str]
    mlflow_version: Mapped[str]
    mlflow_run: Mapped[str | None]
    created: Mapped[datetime]

    project: Mapped[Project] = relationship()
    run: Mapped[Run] = relationship()
    dataset: Mapped[DatasetVersion | None] = relationship()


class Map(Base):
    """A map, named by its id and the digest of its products."""

    __tablename__ = "maps"
    __table_args__ = (UniqueConstraint("project_id", "name", "digest"), Index("ix_maps_name", "name"))

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"))
    tiles_run_id: Mapped[int | None] = mapped_column(ForeignKey("runs.id"))
    model_id: Mapped[int | None] = mapped_column(ForeignKey("model_versions.id"))
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


class Tile(Base):
    """One tile that a map was made of."""

    __tablename__ = "tiles"

    map_id: Mapped[int] = mapped_column(ForeignKey("maps.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    """File name below the folder of the tiles' run."""
    sha256: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)


class Product(Base):
    """One file of a map."""

    __tablename__ = "products"

    map_id: Mapped[int] = mapped_column(ForeignKey("maps.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    """File name below the map's folder."""
    sha256: Mapped[str] = mapped_column(index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    pixels_sha256: Mapped[str | None] = mapped_column(index=True)
    """Of a raster's pixels and georeference: finds a copy whose tags were stripped."""


class DatasetScene(Base):
    """Which scenes a dataset version was made from."""

    __tablename__ = "dataset_scenes"

    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset_versions.id"), primary_key=True)
    scene_id: Mapped[int] = mapped_column(ForeignKey("scenes.id"), primary_key=True, index=True)


class MapScene(Base):
    """Which scenes a map was made from."""

    __tablename__ = "map_scenes"

    map_id: Mapped[int] = mapped_column(ForeignKey("maps.id"), primary_key=True)
    scene_id: Mapped[int] = mapped_column(ForeignKey("scenes.id"), primary_key=True, index=True)
