"""Is the registry what it was? All of it, or what stands behind one map, against events, anchors and signatures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sqlalchemy.orm import Session

from registry.audit.report import Check
from registry.chain.anchors import Head
from registry.chain.check_anchors import CHAIN_TAGS, check_anchors, check_chain_tags, check_statement
from registry.chain.verify_chain import check_events, check_rows, check_rows_of, read_chain
from registry.tables import schema
from registry.tables.database import Database, is_missing
from registry.workspace import Workspace

NOTHING = "nothing is recorded here; does OLMOEARTH_REGISTRY_URL (or OLMOEARTH_HOME) name the right one?"


def verify_workspace(workspace: Workspace, noted: Sequence[Head] = ()) -> tuple[list[Check], Head]:
    """As `verify_registry`, of a workspace's registry; and the head of its chain, worth to be noted elsewhere.

    Raises:
        DatabaseError: the registry cannot be reached.
    """
    if is_missing(workspace.registry_url):
        return [Check("registry", "missing", NOTHING)], Head("", 0, "", workspace.shown_registry)
    database = Database(workspace.registry_url)
    try:
        with database.read() as session:
            read = read_chain(session)
            position = max(read.hashes, default=0)
            head = Head(read.name, position, read.hashes.get(position, ""), str(database))
            if not position:
                return [Check("registry", "missing", NOTHING)], head
            mine = [Head(read.name, other.position, other.hash, other.place) for other in noted]
            return [check_events(read), check_rows(session, read), check_anchors(session, read, mine)], head
    finally:
        database.close()


def verify_registry(session: Session, noted: Sequence[Head] = ()) -> list[Check]:
    """Every event, every row and every head that was written down; a million rows take a minute.

    Args:
        session: of the registry.
        noted: heads that somebody kept elsewhere.
    """
    read = read_chain(session)
    return [check_events(read), check_rows(session, read), check_anchors(session, read, noted)]


def verify_map(
    session: Session, workspace: Workspace, made: schema.Map, folders: Sequence[Path], tags: Mapping[str, str]
) -> list[Check]:
    """What is asked of the registry in every audit of a map: its rows, its statement, the tags of the chain.

    Args:
        session: of the registry.
        workspace: names the keys that are trusted.
        made: the map.
        folders: that may hold its provenance.json, the best first.
        tags: OLMOEARTH_* of the audited file; none of a file that has none.
    """
    checks = [check_rows_of(session, rows_behind(made))]
    if (statement := check_statement(session, workspace, made, folders)) is not None:
        checks.append(statement)
    if wrong := check_chain_tags(session, tags):
        checks.append(Check(CHAIN_TAGS, "differs", "the tags of the file name another chain, or another event", wrong))
    return checks


def rows_behind(made: schema.Map) -> list[schema.Base]:
    """The rows that a map's lineage is read from; tiles, products and links are in the map's own event."""
    rows: list[schema.Base | None] = [made, made.project, made.run, made.tiles_run, *made.scenes, *made.assessments]
    if (model := made.model) is not None:
        rows += [model, model.run, model.base_encoder, *model.evaluations, *model.promotions]
        if (dataset := model.dataset) is not None:
            rows += [dataset, dataset.run, dataset.export_run, dataset.label_set, *dataset.scenes]
            rows += dataset.label_set.files if dataset.label_set else ()
    return _present(rows)


def _present(rows: Iterable[schema.Base | None]) -> list[schema.Base]:
    return [row for row in rows if row is not None]
