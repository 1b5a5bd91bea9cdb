"""The chain's head outside of the database: who rewrites all of the registry is told by what left the house before."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import smallrun
from rasterio.shutil import copy as gdal_copy
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from olmoearth_core.digest import sha256_file
from olmoearth_core.project import Project, load_project
from olmoearth_core.stage import StageResult
from registry.chain.anchors import HEADS, PROVENANCE, Head
from registry.chain.check_anchors import check_anchors, check_chain_tags, check_statement, check_statement_alone
from registry.chain.signing import key_id, make_key, seal, signed_bytes, signing_key, trusted_keys, unseal
from registry.chain.verify import verify_map, verify_registry
from registry.chain.verify_chain import check_events, check_rows, read_chain
from registry.context import RunContext
from registry.errors import SettingError, SignatureError
from registry.fingerprint import tags_of
from registry.mlflow.models import ModelVersion
from registry.registry import open_registry
from registry.tables import schema
from registry.workspace import Workspace


@dataclass(frozen=True)
class Signed:
    """A workspace with a signing key, and a map that it recorded and anchored."""

    workspace: Workspace
    project: Project
    results: dict[str, StageResult]
    model: ModelVersion
    public: Path

    @property
    def folder(self) -> Path:
        return self.results["postprocess"].folder

    @property
    def statement(self) -> dict[str, Any]:
        payload, _ = unseal(json.loads((self.folder / PROVENANCE).read_bytes()), {})
        found: dict[str, Any] = json.loads(payload)
        return found

    def record(self, workspace: Workspace) -> None:
        """As the door does."""
        with open_registry(workspace) as registry:
            for name, result in self.results.items():
                told = self.model if name == "finetune" else None
                registry.record(self.project, result, RunContext.here(self.project), model=told)
            registry.anchor(self.project, self.results["postprocess"])

    @contextmanager
    def session(self) -> Iterator[Session]:
        with open_registry(self.workspace) as registry, registry.database.read() as session:
            yield session

    def made(self, session: Session) -> schema.Map:
        return session.scalars(select(schema.Map)).one()

    def statuses(self, workspace: Workspace | None = None) -> dict[str, str]:
        """What an audit of the map asks of the registry -> status."""
        tags = tags_of(self.folder / "map.tif")
        with self.session() as session:
            made = self.made(session)
            checks = verify_map(session, workspace or self.workspace, made, [self.folder], tags)
            return {check.what: check.status for check in (*checks, *verify_registry(session))}


ALL_OK = {
    "chain of events": "ok",
    "rows against their events": "ok",
    "anchors of the chain": "ok",
    "provenance statement": "ok",
}


@pytest.fixture
def signed(finished: Path, models_home: Workspace, registered: ModelVersion, tmp_path: Path) -> Signed:
    """On a copy of the finished project."""
    private, public, _ = make_key(tmp_path / "keys" / "signing.pem")
    home = Workspace.at(tmp_path / "home", tracking_uri=models_home.tracking_uri, artifacts=models_home.artifacts)
    project = load_project(shutil.copytree(finished, tmp_path / "small"))
    results = {name: replace(result, skipped=False) for name, result in smallrun.run(project).items()}
    house = Signed(replace(home, signing_key=str(private)), project, results, registered, public)
    house.record(house.workspace)
    return house


def test_a_statement_that_other_tools_read(signed: Signed) -> None:
    statement = signed.statement
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert {s["name"]: s["digest"]["sha256"] for s in statement["subject"]} == {
        name: sha256_file(signed.folder / name) for name in ("map.tif", "probabilities.tif", "areas.csv")
    }
    built = statement["predicate"]["buildDefinition"]
    assert built["externalParameters"]["map"] == signed.folder.name
    needed = {d["name"]: d for d in built["resolvedDependencies"]}
    assert needed["model weights"]["digest"]["sha256"] == signed.model.weights_sha256
    labels = signed.project.root / "labels/forest.geojson"
    assert needed["labels/forest.geojson"]["digest"]["sha256"] == sha256_file(labels)
    assert {"A", "B", "tiles", "training set", "base encoder v1.1-nano", "platform's code of infer"} < set(needed)
    run = statement["predicate"]["runDetails"]
    assert run["metadata"]["startedOn"] < run["metadata"]["finishedOn"]
    with signed.session() as session:
        event = session.scalars(select(schema.Event).where(schema.Event.id == signed.made(session).event)).one()
        chain = session.scalars(select(schema.Chain)).one()
    told = statement["predicate"]["olmoearth_chain"]
    assert (told["chain"], told["position"], told["before"]) == (chain.name, event.position, event.previous)
    assert told["head"] == event.hash
    assert signed.statuses() == ALL_OK


def test_openssl_verifies_the_signature(signed: Signed, tmp_path: Path) -> None:
    envelope = json.loads((signed.folder / PROVENANCE).read_bytes())
    (tmp_path / "payload").write_bytes(signed_bytes(base64.b64decode(envelope["payload"])))
    (tmp_path / "signature").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    told = ["-in", str(tmp_path / "payload"), "-sigfile", str(tmp_path / "signature")]
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(signed.public), "-rawin", *told]
    assert subprocess.run(command, check=True, capture_output=True).returncode == 0
    (tmp_path / "payload").write_bytes(signed_bytes(base64.b64decode(envelope["payload"]) + b" "))
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0


def test_a_key_that_openssl_made(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(path)], check=True, capture_output=True)
    key = signing_key(str(path))
    assert key is not None
    assert signing_key(path.read_text().replace("\n", "\\n")) is not None, "as one line of a container's settings"
    payload, signer = unseal(seal(b"{}", key), trusted_keys(None, path.read_text()))
    assert (payload, signer) == (b"{}", key_id(key.public_key()))


def test_from_the_file_alone(signed: Signed, tmp_path: Path) -> None:
    """On another machine: the map's folder and a public key."""
    folder = Path(shutil.copytree(signed.folder, tmp_path / "published"))
    check, statement = check_statement_alone(folder / PROVENANCE, str(signed.public))
    assert check.status == "ok"
    assert check.detail.endswith("3 of 3 files are here and as signed")
    assert statement == signed.statement
    (folder / "areas.csv").write_text("class,hectares\nforest,1\n")
    check, _ = check_statement_alone(folder / PROVENANCE, str(signed.public))
    assert check.problems == ["areas.csv: content differs from its checksum"]
    _, other, _ = make_key(tmp_path / "other.pem")
    with pytest.raises(SignatureError, match=r"none of the trusted keys"):
        check_statement_alone(folder / PROVENANCE, str(other))
    with pytest.raises(SettingError, match=r"public key is the file that ends in \.pub"):
        check_statement_alone(folder / PROVENANCE, str(tmp_path / "other.pem"))
    with pytest.raises(SignatureError, match=r"areas\.csv: is no signed statement"):
        check_statement_alone(folder / "areas.csv", str(signed.public))
    (folder / PROVENANCE).write_text(json.dumps(seal(b'{"subject": []}', None)))
    with pytest.raises(SignatureError, match="is not signed"):
        check_statement_alone(folder / PROVENANCE, str(signed.public))


def test_the_rasters_show_the_head_and_stay_as_they_are(signed: Signed, tmp_path: Path) -> None:
    raster = signed.folder / "map.tif"
    assert sha256_file(raster) == signed.results["postprocess"].manifest.outputs["map.tif"].sha256
    tags = tags_of(raster)
    head = signed.statement["predicate"]["olmoearth_chain"]
    assert (tags["OLMOEARTH_CHAIN_HEAD"], tags["OLMOEARTH_CHAIN_POSITION"]) == (head["head"], str(head["position"]))
    copied = tmp_path / "copied.tif"
    gdal_copy(raster, copied, driver="COG")
    assert not copied.with_name("copied.tif.aux.xml").exists()
    assert tags_of(copied)["OLMOEARTH_CHAIN_HEAD"] == head["head"], "GDAL takes it into what it makes of the map"
    assert not smallrun.run(signed.project, "postprocess")["postprocess"].folder.with_name("work").exists()
    assert smallrun.run(signed.project, "postprocess")["postprocess"].skipped


def test_statistics_of_a_gis_stay(signed: Signed) -> None:
    path = signed.folder / "map.tif.aux.xml"
    path.write_text(
        '<PAMDataset><Metadata><MDI key="OLMOEARTH_CHAIN_HEAD">x</MDI></Metadata><PAMRasterBand band="1"/></PAMDataset>'
    )
    with signed.session() as session:
        (problem,) = check_chain_tags(session, {**tags_of(signed.folder / "map.tif"), "OLMOEARTH_CHAIN": "y"})
    assert problem.startswith("OLMOEARTH_CHAIN is y, this registry's chain is ")
    assert signed.statuses()["tags of the chain"] == "differs"
    signed.record(signed.workspace)
    assert '<PAMRasterBand band="1"' in path.read_text()
    assert signed.statuses() == ALL_OK


def test_telling_again_writes_the_same(signed: Signed) -> None:
    places = [signed.folder / PROVENANCE, signed.folder / "map.tif.aux.xml", signed.project.root / HEADS]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in places]
    with open_registry(signed.workspace) as registry:
        result = replace(signed.results["postprocess"], skipped=True)
        registry.record(signed.project, result, RunContext.here(signed.project))
        registry.anchor(signed.project, result)
        with registry.database.read() as session:
            (anchor,) = session.scalars(select(schema.Anchor))
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in places] == before
    assert anchor.place == str(signed.folder / PROVENANCE)
    assert anchor.key == key_id(next(iter(trusted_keys(str(signed.public)).values())))


def sql(signed: Signed, *statements: str) -> None:
    with open_registry(signed.workspace) as registry, registry.database.engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def test_a_chain_that_was_cut_before_its_last_anchor(signed: Signed) -> None:
    """All rows of the last events are gone, and the head is set back: within the database nothing contradicts it."""
    cut = signed.statement["predicate"]["olmoearth_chain"]["position"]
    gone = f"(SELECT id FROM events WHERE position >= {cut})"
    tables = ("anchors", "map_scenes", "products", "tiles", "maps")
    sql(
        signed,
        *(f"DELETE FROM {table} WHERE event IN {gone}" for table in tables),
        f"DELETE FROM runs WHERE event IN {gone}",
        f"DELETE FROM events WHERE position >= {cut}",
        f"UPDATE chains SET position = {cut - 1}, hash = (SELECT hash FROM events WHERE position = {cut - 1})",
    )
    with signed.session() as session:
        read = read_chain(session)
        assert (check_events(read).status, check_rows(session, read).status) == ("ok", "ok")
        check = check_anchors(session, read)
    assert check.status == "differs"
    assert check.problems == [
        f"{signed.project.root / HEADS}: event {cut}, of the map {signed.folder.name}, was in the chain when this was "
        "written; it is gone"
    ]


def test_an_event_taken_from_the_end(signed: Signed) -> None:
    """Only the event, and the head set back: the rows are without an event, and the anchors know more."""
    cut = signed.statement["predicate"]["olmoearth_chain"]["position"]
    sql(
        signed,
        f"DELETE FROM events WHERE position >= {cut}",
        f"UPDATE chains SET position = {cut - 1}, hash = (SELECT hash FROM events WHERE position = {cut - 1})",
    )
    assert signed.statuses() == {
        "chain of events": "ok",
        "rows against their events": "differs",
        "anchors of the chain": "differs",
        "provenance statement": "differs",
        "tags of the chain": "differs",
    }


def test_a_registry_that_was_forged_from_its_beginning(signed: Signed, tmp_path: Path) -> None:
    """Whoever holds the database, the files and MLflow tells a new registry all of it; what left the house knows."""
    before = Path(shutil.copytree(signed.folder, tmp_path / "published"))
    for path in (signed.folder / PROVENANCE, signed.project.root / HEADS, *signed.folder.glob("*.aux.xml")):
        path.unlink()
    (signed.workspace.home / "registry.db").unlink()
    forger = replace(signed.workspace, signing_key=None, trusted_keys=str(signed.public))
    signed.record(forger)
    with signed.session() as session:
        made = signed.made(session)
        read = read_chain(session)
        assert [c.status for c in (check_events(read), check_rows(session, read), check_anchors(session, read))] == [
            "ok"
        ] * 3
        ours = check_statement(session, forger, made, [signed.folder])
        theirs = check_statement(session, forger, made, [before])
        published = check_chain_tags(session, tags_of(before / "map.tif"))
        noted = check_anchors(session, read, [Head(read.name, 2, "0" * 64, "the auditor's notebook")])
    assert ours is not None
    assert (ours.status, ours.detail.endswith("is not signed, and signatures are asked for")) == ("missing", True)
    assert theirs is not None
    assert theirs.status == "differs"
    assert "of another registry; this one's is" in theirs.problems[0]
    assert published[0].startswith("OLMOEARTH_CHAIN is ")
    assert noted.problems == [
        "the auditor's notebook: event 2 was another when this was written: the chain was made anew since"
    ]


def test_statements_that_were_tampered_with(signed: Signed, tmp_path: Path) -> None:
    path = signed.folder / PROVENANCE
    before = json.loads(path.read_bytes())
    statement = signed.statement
    statement["subject"][0]["digest"]["sha256"] = "0" * 64
    payload = json.dumps(statement).encode()
    other, _, _ = make_key(tmp_path / "other.pem")

    def status(envelope: Any) -> tuple[str, str]:
        path.write_text(envelope if isinstance(envelope, str) else json.dumps(envelope))
        with signed.session() as session:
            check = check_statement(session, signed.workspace, signed.made(session), [signed.folder])
        assert check is not None
        return check.status, " ".join((check.detail, *check.problems))

    changed = {**before, "payload": base64.b64encode(payload).decode()}
    for envelope, expected, said in (
        (changed, "differs", "is false: it was changed after signing"),
        (seal(payload, signing_key(str(other))), "differs", "none of the trusted keys"),
        (seal(payload, None), "differs", "the statement says 000"),
        (seal(json.dumps(signed.statement).encode(), None), "missing", "not signed"),
        ({**before, "payloadType": "text/plain"}, "differs", "holds text/plain"),
        ("{", "differs", "cannot be read"),
        ("[]", "differs", "is no DSSE envelope"),
        (before, "ok", "signed by the key"),
    ):
        path.write_text(json.dumps(before))
        found = status(envelope)
        assert found[0] == expected, found
        assert said in found[1]
    path.unlink()
    with signed.session() as session:
        made = signed.made(session)
        check = check_statement(session, signed.workspace, made, [signed.folder])
        assert check is not None
        assert check.status == "missing"
        assert check_statement(session, replace(signed.workspace, signing_key=None), made, [signed.folder]) is None


@pytest.mark.parametrize("value", ["nowhere.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_key(value: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="OLMOEARTH_SIGNING_KEY"):
        signing_key(value)
    with pytest.raises(SettingError, match="OLMOEARTH_TRUSTED_KEYS"):
        trusted_keys(value)
    _, public, _ = make_key(tmp_path / "key.pem")
    with pytest.raises(SettingError, match="private key"):
        signing_key(str(public))
    with pytest.raises(SignatureError, match="is there already"):
        make_key(tmp_path / "key.pem")
    assert (tmp_path / "key.pem").stat().st_mode & 0o077 == 0
