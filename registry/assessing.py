"""An assessment as the registry keeps it: which sample, which answers, and what came of them, of which map."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import make_url, select
from sqlalchemy.orm import Session

from olmoearth_core.digest import sha256_file
from registry.context import who
from registry.errors import RegistryError
from registry.tables import schema
from registry.tables.database import Database, add_missing
from registry.workspace import Workspace

DESIGN = "sample.json"


def record_assessment(workspace: Workspace, folder: Path, answers: Path, estimates: Mapping[str, Any]) -> str | None:
    """Take an assessment down with the map whose file was sampled; telling twice is once.

    Args:
        workspace: whose registry is told; where it has none yet, none is made.
        folder: of the sample.
        answers: the file with the interpreters' answers.
        estimates: as assessment.json holds them.

    Returns:
        The map's id; None where the registry knows no map with such a file.

    Raises:
        RegistryError: a file of the sample cannot be read.
        DatabaseError: the registry refuses.
    """
    url = make_url(workspace.registry_url)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        return None
    try:
        told: dict[str, Any] = {"sample_sha256": sha256_file(folder / DESIGN), "answers_sha256": sha256_file(answers)}
    except OSError as error:
        raise RegistryError(f"{error.filename}: cannot be read ({error.strerror}).") from error
    told |= {"units": estimates["design"]["units"], "estimates": dict(estimates), "who": who()}
    rasters = [raster["sha256"] for raster in estimates["rasters"]]

    def write(session: Session) -> str | None:
        wanted = select(schema.Map).join(schema.Product).where(schema.Product.sha256.in_(rasters))
        made = session.scalars(wanted.order_by(schema.Map.id.desc()).limit(1)).first()
        if made is None:
            return None
        add_missing(session, schema.Assessment, [{"map_id": made.id, **told, "created": datetime.now(UTC)}])
        return made.name

    database = Database(workspace.registry_url)
    try:
        return database.transact(write, "assessment", map=estimates["map_id"])
    finally:
        database.close()
