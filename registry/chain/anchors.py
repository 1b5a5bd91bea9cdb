"""The head of the chain, written down where who can write the database cannot reach: with each map, and in git.

A chain alone proves that nobody changed a part of it; whoever can write the whole database can make it anew. Each map
therefore takes the head with it when it leaves the house, in files beside its own, which are hashed and stay as they
are: provenance.json (a statement, signed where there is a key) and an .aux.xml beside each GeoTIFF, which GDAL shows as
tags and copies into what it makes of them. anchors.jsonl in the project's folder belongs in git.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from sqlalchemy import select

from olmoearth_core.digest import canonical_json
from olmoearth_core.store import write_bytes, write_json, write_text
from registry.chain.signing import key_id, seal, signing_key, unseal
from registry.chain.statement import CHAIN, map_statement
from registry.errors import DatabaseError
from registry.tables import schema
from registry.tables.database import Database, add_missing
from registry.workspace import Workspace

PROVENANCE, HEADS, SIDECAR = "provenance.json", "anchors.jsonl", ".aux.xml"
CHAIN_TAG, POSITION_TAG, HEAD_TAG = "OLMOEARTH_CHAIN", "OLMOEARTH_CHAIN_POSITION", "OLMOEARTH_CHAIN_HEAD"


@dataclass(frozen=True)
class Head:
    """A head of a chain, as it was written down somewhere."""

    chain: str
    position: int
    hash: str
    place: str
    """Where it is written."""
    map: str = ""
    """Id of the map that it was written down for."""


def anchor_map(database: Database, workspace: Workspace, root: Path, folder: Path, name: str, digest: str) -> Path:
    """Write down the event that vouches for a map: beside its files, in the project and in the registry.

    Doing it twice changes nothing. The files of the map are not touched.

    Args:
        database: of the registry, which knows the map.
        workspace: names the key, where statements are signed.
        root: the project's folder.
        folder: of the map.
        name: the map's id.
        digest: of its outputs.

    Returns:
        provenance.json.

    Raises:
        DatabaseError: the registry does not know the map, or the event that vouches for it is gone.
        SettingError: OLMOEARTH_SIGNING_KEY is no key.
        StoreError: the disk is full, or the place cannot be written.
    """
    key = signing_key(workspace.signing_key)
    with database.read() as session:
        wanted = select(schema.Map).where(schema.Map.name == name, schema.Map.digest == digest)
        made = session.scalars(wanted.order_by(schema.Map.id.desc()).limit(1)).first()
        event = session.scalars(select(schema.Event).where(schema.Event.id == (made and made.event))).one_or_none()
        chain = session.scalars(select(schema.Chain.name)).one_or_none()
        if made is None or event is None or chain is None:
            raise DatabaseError(
                f"{database}: has no event that vouches for the map {name}. Run `olmoearth audit --verify`."
            )
        statement = map_statement(made, chain, event)
    place = folder / PROVENANCE
    envelope = seal(canonical_json(statement).encode(), key)
    if _read(place) != envelope:
        write_json(place, envelope)
    head = Head(chain, event.position, event.hash, str(place), name)
    for raster in sorted(folder.glob("*.tif")):
        _write_sidecar(raster, head)
    _note(root / HEADS, head, digest)
    signer = key_id(key.public_key()) if key is not None else None
    row = {"position": event.position, "hash": event.hash, "place": str(place), "key": signer}
    database.transact(
        lambda session: add_missing(session, schema.Anchor, [{**row, "created": datetime.now(UTC)}]), "anchor", map=name
    )
    return place


def heads_in(path: Path) -> list[Head]:
    """The heads that a project's anchors.jsonl holds; lines that hold none are left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    found = []
    for line in lines:
        try:
            value = json.loads(line)
            head = (str(value["chain"]), int(value["position"]), str(value["hash"]))
            found.append(Head(*head, str(path), str(value.get("map", ""))))
        except (ValueError, KeyError, TypeError):
            continue
    return found


def head_of(path: Path) -> Head | None:
    """The head that a statement holds; the signature is looked at elsewhere."""
    try:
        payload, _ = unseal(json.loads(path.read_bytes()), {})
        statement = json.loads(payload)
        anchor = statement["predicate"][CHAIN]
        name = str(statement["predicate"]["buildDefinition"]["externalParameters"]["map"])
        return Head(str(anchor["chain"]), int(anchor["position"]), str(anchor["head"]), str(path), name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _note(path: Path, head: Head, digest: str) -> None:
    """One more line of anchors.jsonl, unless it is there."""
    told = {"chain": head.chain, "position": head.position, "hash": head.hash, "map": head.map, "digest": digest}
    line = json.dumps(told)
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    if line not in before.splitlines():
        write_text(path, f"{before}{line}\n")


def _write_sidecar(raster: Path, head: Head) -> None:
    """Metadata that GDAL reads beside a raster; what is there of others (statistics of a GIS) stays."""
    path = raster.with_name(f"{raster.name}{SIDECAR}")
    try:
        tree = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError):
        tree = ElementTree.Element("PAMDataset")
    before = ElementTree.tostring(tree)
    metadata = next((part for part in tree.findall("Metadata") if not part.get("domain")), None)
    if metadata is None:
        metadata = ElementTree.SubElement(tree, "Metadata")
    for name, value in ((CHAIN_TAG, head.chain), (POSITION_TAG, str(head.position)), (HEAD_TAG, head.hash)):
        item = next((part for part in metadata.findall("MDI") if part.get("key") == name), None)
        if item is None:
            item = ElementTree.SubElement(metadata, "MDI", key=name)
        item.text = value
    if (now := ElementTree.tostring(tree)) != before:
        write_bytes(path, now + b"\n")


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
