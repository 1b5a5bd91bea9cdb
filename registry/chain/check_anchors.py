"""Heads and statements that lie outside of the database, against the chain and the rows in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from olmoearth_core.digest import sha256_file
from registry.audit.report import Check
from registry.chain.anchors import CHAIN_TAG, HEAD_TAG, HEADS, POSITION_TAG, PROVENANCE, Head, head_of, heads_in
from registry.chain.signing import trusted_keys, unseal
from registry.chain.statement import CHAIN
from registry.chain.verify_chain import Read
from registry.errors import SignatureError
from registry.tables import schema
from registry.workspace import Workspace

ANCHORS, STATEMENT, CHAIN_TAGS = "anchors of the chain", "provenance statement", "tags of the chain"


def check_anchors(session: Session, read: Read, extra: Sequence[Head] = ()) -> Check:
    """Every head that was written down, in the places that can be reached, against the chain as it is now.

    Args:
        session: of the registry.
        read: the chain.
        extra: heads that somebody noted elsewhere.
    """
    folders = session.scalars(select(schema.Run.project_folder).distinct())
    heads = [head for folder in sorted(folders) for head in heads_in(Path(folder) / HEADS)]
    problems: list[str] = []
    gone = 0
    for anchor in session.scalars(select(schema.Anchor).order_by(schema.Anchor.id)):
        problems += _compare(Head(read.name, anchor.position, anchor.hash, "the registry's table of anchors"), read)
        if (head := head_of(Path(anchor.place))) is None:
            gone += 1
        else:
            heads.append(head)
    own = {head.map for head in heads if head.chain == read.name}
    for head in (*heads, *extra):
        if head.chain == read.name:
            problems += _compare(head, read)
        elif head.map not in own:  # told to another registry as well, it has a head of either
            problems.append(
                f"{head.place}: holds a head of the chain {head.chain[:16]}; this registry's is {read.name[:16]}"
            )
    detail = f"{len(heads) + len(extra)} heads that were written down outside are in the chain"
    if gone:
        detail += f"; {gone} that were written are not here any more"
    if problems:
        unique = list(dict.fromkeys(problems))
        return Check(ANCHORS, "differs", f"{len(unique)} heads that were written down are not in the chain", unique)
    return Check(ANCHORS, "ok", detail)


def check_statement(session: Session, workspace: Workspace, made: schema.Map, places: Sequence[Path]) -> Check | None:
    """A map's provenance.json: its signature, its subject and its place in the chain; None where nobody wants one.

    Args:
        session: of the registry.
        workspace: names the keys that are trusted; where it names any, a statement without a signature is `missing`.
        made: the map.
        places: folders that may hold it, the best first.
    """
    keys = trusted_keys(workspace.trusted_keys, workspace.signing_key)
    path = next((place / PROVENANCE for place in places if (place / PROVENANCE).is_file()), None)
    if path is None:
        return Check(STATEMENT, "missing", f"no {PROVENANCE} beside the map") if keys else None
    try:
        envelope = json.loads(path.read_bytes())
        payload, signer = unseal(envelope, keys)
        problems = list(_differences(session, made, json.loads(payload)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = str(error) if isinstance(error, SignatureError) else f"cannot be read ({error.__class__.__name__})"
        return Check(STATEMENT, "differs", f"{path}: {why}")
    if problems:
        return Check(STATEMENT, "differs", f"{path} does not say what the registry recorded", problems)
    if keys and signer is None:
        return Check(STATEMENT, "missing", f"{path}: is not signed, and signatures are asked for")
    signed = f"signed by the key {signer[:16]}" if signer else "not signed"
    if envelope["signatures"] and not keys:
        signed = "its signature was not checked, as OLMOEARTH_TRUSTED_KEYS names no key"
    return Check(STATEMENT, "ok", f"{path} tells these products and their event in the chain; {signed}")


def check_statement_alone(path: Path, keys: str) -> tuple[Check, Mapping[str, Any]]:
    """A statement and the files beside it, without any registry: signature, and the checksum of each subject.

    Args:
        path: provenance.json.
        keys: the public keys, PEM or a file with them.

    Raises:
        SettingError: no public key.
        SignatureError: no statement, or not signed by one of the keys.
    """
    trusted = trusted_keys(keys)
    try:
        payload, signer = unseal(json.loads(path.read_bytes()), trusted)
        statement: Mapping[str, Any] = json.loads(payload)
        subjects = {str(s["name"]): str(s["digest"]["sha256"]) for s in statement["subject"]}
    except SignatureError as error:
        raise SignatureError(f"{path}: {error}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SignatureError(f"{path}: is no signed statement ({error.__class__.__name__}).") from None
    if signer is None:
        raise SignatureError(
            f"{path}: is not signed. Maps made with OLMOEARTH_SIGNING_KEY set are (`olmoearth keys new FILE`)."
        )
    there = {name: path.with_name(name) for name in subjects if path.with_name(name).is_file()}
    wrong = [
        f"{name}: content differs from its checksum"
        for name, file in there.items()
        if sha256_file(file) != subjects[name]
    ]
    if wrong:
        return Check(
            STATEMENT, "differs", f"{len(wrong)} of {len(there)} files are not those that were signed", wrong
        ), statement
    return Check(
        STATEMENT, "ok", f"signed by {signer[:16]}; {len(there)} of {len(subjects)} files are here and as signed"
    ), statement


def check_chain_tags(session: Session, tags: Mapping[str, str]) -> list[str]:
    """What the chain's tags of a raster say that the registry does not; they come from its .aux.xml, and GDAL copies
    them into what it makes of it."""
    if HEAD_TAG not in tags:
        return []
    event = session.scalars(
        select(schema.Event).where(schema.Event.position == _number(tags.get(POSITION_TAG)))
    ).first()
    chain = session.scalars(select(schema.Chain.name)).one_or_none()
    if tags.get(CHAIN_TAG) != chain:
        return [f"{CHAIN_TAG} is {tags.get(CHAIN_TAG)}, this registry's chain is {chain}"]
    if event is None or event.hash != tags[HEAD_TAG]:
        return [
            f"{HEAD_TAG} is {tags[HEAD_TAG]}, the event {tags.get(POSITION_TAG)} is {event.hash if event else 'gone'}"
        ]
    return []


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else -1


def _compare(head: Head, read: Read) -> Iterator[str]:
    found = read.hashes.get(head.position)
    what = f"event {head.position}{f', of the map {head.map},' if head.map else ''}"
    if found is None:
        yield f"{head.place}: {what} was in the chain when this was written; it is gone"
    elif found != head.hash:
        yield f"{head.place}: {what} was another when this was written: the chain was made anew since"


def _differences(session: Session, made: schema.Map, statement: Mapping[str, Any]) -> Iterator[str]:
    told = {str(s["name"]): str(s["digest"]["sha256"]) for s in statement["subject"]}
    rows = {product.name: product.sha256 for product in made.products}
    for name in sorted({*told, *rows}):
        if told.get(name) != rows.get(name):
            yield f"{name}: recorded is {rows.get(name, 'nothing')}, the statement says {told.get(name, 'nothing')}"
    anchor = statement["predicate"][CHAIN]
    chain = session.scalars(select(schema.Chain.name)).one_or_none()
    if anchor["chain"] != chain:
        own = (chain or "gone")[:16]
        yield f"it was written for the chain {anchor['chain'][:16]} of another registry; this one's is {own}"
        return
    event = session.scalars(select(schema.Event).where(schema.Event.position == int(anchor["position"]))).one_or_none()
    if event is None or event.hash != anchor["head"]:
        now = "gone" if event is None else "another"
        yield f"event {anchor['position']}, which it was written after, is {now}: the chain was made anew since"
