"""An embedded workspace in one file, and back: registry, MLflow, artifacts, dataset versions, own templates.

The databases are copied first, by SQLite's own means, so that writers may go on; then the files. Files are only ever
added, and before the rows that name them: whatever a copied row names is among the copied files. The file is a tar with
a list of names and checksums at its end.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlsplit

from olmoearth_core.digest import sha256_file
from olmoearth_core.progress import Progress
from olmoearth_core.store import PARTIAL, disk_errors, whole_file
from registry.context import PACKAGE
from registry.errors import BackupError
from registry.workspace import Workspace

SQLITE = "sqlite:///"
REGISTRY, MLFLOW, ARTIFACTS, DATASETS, TEMPLATES = "registry.db", "mlflow.db", "artifacts", "dvc-remote", "templates"
FOLDERS = (ARTIFACTS, DATASETS, TEMPLATES)
"""The parts, by their names in the file: those that `Workspace` gives them below its home."""
LIST, SEAL = "backup.json", "backup.sha256"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Backup:
    """What a backup holds."""

    file: Path
    created: str
    """ISO 8601, UTC."""
    files: int
    bytes: int
    """Of the files in it."""
    places: dict[str, str]
    """Part -> where it lay."""


def back_up(workspace: Workspace, file: Path, progress: Progress) -> Backup:
    """Write the workspace to `file`, whole or not at all; others may be at work in it.

    Raises:
        BackupError: it is not embedded, or empty, or the file is there already.
        StoreError: the disk is full.
    """
    file = file.expanduser().absolute()
    places = _embedded(workspace)
    if file.exists():
        raise BackupError(f"{file}: is there already. Name another file; no backup is overwritten.")
    if not Path(places[REGISTRY]).is_file():
        raise BackupError(f"{places[REGISTRY]}: no such registry; there is nothing to back up. See OLMOEARTH_HOME.")
    listed: dict[str, dict[str, Any]] = {}
    with (
        whole_file(file) as partial,
        tempfile.TemporaryDirectory(dir=file.parent, prefix="backup-") as temporary,
        tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as archive,
        progress.bar("backing up", None) as advance,
    ):
        for name in (REGISTRY, MLFLOW):  # in this order: the registry names what MLflow has
            if Path(places[name]).is_file():
                copy = Path(temporary) / name
                _copy_database(Path(places[name]), copy)
                listed[name] = _add(archive, name, copy)
                advance(1)
        for part in FOLDERS:
            for path in _files(Path(places[part])):
                name = f"{part}/{path.relative_to(places[part]).as_posix()}"
                with suppress(FileNotFoundError):  # written beside its name, and renamed by now: no row names it yet
                    listed[name] = _add(archive, name, path)
                advance(1)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        told = {
            "schema_version": SCHEMA_VERSION,
            "created": created,
            "platform_version": version(PACKAGE),
            "places": places,
            "files": listed,
        }
        content = json.dumps(told, indent=1, sort_keys=True).encode()
        _add_bytes(archive, LIST, content)
        _add_bytes(archive, SEAL, hashlib.sha256(content).hexdigest().encode())
    return Backup(file, created, len(listed), sum(entry["bytes"] for entry in listed.values()), places)


def restore(workspace: Workspace, file: Path, progress: Progress) -> Backup:
    """Make the workspace's home from a backup, whole or not at all.

    Raises:
        BackupError: the home is not empty, a setting points elsewhere, or the file is damaged or no backup.
        StoreError: the disk is full.
    """
    file, home = file.expanduser().absolute(), workspace.home
    _check_empty(workspace)
    place = home.resolve()  # a home may be a link to a larger disk; the link stays
    with disk_errors(home):
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}-", suffix=PARTIAL) as temporary:
            folder = Path(temporary) / "home"
            folder.mkdir()
            told = _unpack(file, folder, progress)
            for name in (REGISTRY, MLFLOW):
                _check_database(file, folder / name)
            _relocate(folder / MLFLOW, told["places"][ARTIFACTS], workspace.artifacts)
            for part in FOLDERS:
                (folder / part).mkdir(exist_ok=True)
            if place.exists():
                place.rmdir()
            folder.rename(place)
    listed = told["files"]
    return Backup(file, told["created"], len(listed), sum(entry["bytes"] for entry in listed.values()), told["places"])


def _embedded(workspace: Workspace) -> dict[str, str]:
    """Part -> where it lies on this machine.

    Raises:
        BackupError: one of them is on a server.
    """
    places = {
        REGISTRY: workspace.registry_url,
        MLFLOW: workspace.tracking_uri,
        ARTIFACTS: workspace.artifacts,
        DATASETS: workspace.dvc_remote,
        TEMPLATES: str(workspace.templates),
    }
    for name in (REGISTRY, MLFLOW):
        if not places[name].startswith(SQLITE) or "?" in places[name]:
            scheme = urlsplit(places[name]).scheme
            raise BackupError(
                f"{name.removesuffix('.db')}: lives behind {scheme}://, not in a file of this machine. Servers are "
                "backed up by their own means: pg_dump, and versions of the buckets (docs/reproduce.md)."
            )
        places[name] = places[name].removeprefix(SQLITE)
    for part in (ARTIFACTS, DATASETS):
        if urlsplit(places[part]).scheme:
            raise BackupError(
                f"{part}: lie in {places[part]}, not on this machine. Buckets are backed up by their own means: "
                "versioning and replication (docs/reproduce.md)."
            )
    return places


def _check_empty(workspace: Workspace) -> None:
    home = workspace.home
    if _embedded(workspace) != _embedded(Workspace.at(home)):
        raise BackupError(
            f"{home}: a backup is restored with all its parts below OLMOEARTH_HOME; unset OLMOEARTH_REGISTRY_URL, "
            "MLFLOW_TRACKING_URI, OLMOEARTH_ARTIFACTS, OLMOEARTH_DVC_REMOTE and OLMOEARTH_TEMPLATES."
        )
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise BackupError(f"{home}: is not empty; nothing is overwritten. Set OLMOEARTH_HOME to a new folder.")


def _copy_database(source: Path, target: Path) -> None:
    try:
        with (
            closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True, timeout=60)) as there,
            closing(sqlite3.connect(target)) as here,
        ):
            there.backup(here)
            here.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
    except sqlite3.Error as error:
        raise BackupError(f"{source}: cannot be copied ({error}).") from error


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and not any(part.endswith(PARTIAL) for part in path.parts):
            yield path


class _Hashing:
    """Reads a file for tarfile, and knows the sha256 of what was read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self.sha256.update(content)
        return content


def _add(archive: tarfile.TarFile, name: str, path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = path.stat().st_size, 0o644
        hashing = _Hashing(file)
        archive.addfile(entry, cast(IO[bytes], hashing))
    return {"sha256": hashing.sha256.hexdigest(), "bytes": entry.size}


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, BytesIO(content))


def _unpack(file: Path, folder: Path, progress: Progress) -> dict[str, Any]:
    """Lay the files of a backup into `folder` and hold each against the list at its end.

    Raises:
        BackupError: the file is damaged, cut off, or no backup.
    """
    try:
        # never unpacked from a compressed file: a small one could fill the disk before its list is read
        with tarfile.open(file, "r:") as archive, progress.bar("restoring", None) as advance:
            for entry in archive:
                archive.extract(entry, folder, filter="data")
                advance(1)
        content = (folder / LIST).read_bytes()
        sealed = (folder / SEAL).read_text() == hashlib.sha256(content).hexdigest()
        told = json.loads(content) if sealed else {}
    except FileNotFoundError as error:
        missing = Path(error.filename or file)
        if missing == file:
            raise BackupError(f"{file}: no such file.") from error
        raise BackupError(f"{file}: has no {missing.name}: it is cut off, or no backup of a workspace.") from error
    except (tarfile.TarError, EOFError, ValueError, IsADirectoryError) as error:
        raise BackupError(f"{file}: not a whole backup of a workspace ({error}).") from error
    if not _is_list(told):
        raise BackupError(f"{file}: its list of files is damaged, or of another version of the platform.")
    if not (folder / REGISTRY).is_file():
        raise BackupError(f"{file}: has no {REGISTRY}: it is no backup of a workspace.")
    for name in (LIST, SEAL):
        (folder / name).unlink()
    wrong = [name for name, entry in told["files"].items() if not _is(folder / name, entry)]
    strange = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - told[
        "files"
    ].keys()
    if wrong or strange:
        raise BackupError(f"{file}: is damaged: {', '.join([*wrong, *sorted(strange)][:3])}. Nothing was restored.")
    whole: dict[str, Any] = told
    return whole


def _is_list(told: Any) -> bool:
    """Whether this is a list of files as `back_up` writes it; whoever can seal one can write another."""
    if not isinstance(told, dict) or told.get("schema_version") != SCHEMA_VERSION:
        return False
    places, listed = told.get("places"), told.get("files")
    return (
        isinstance(told.get("created"), str)
        and isinstance(places, dict)
        and all(isinstance(places.get(part), str) for part in (REGISTRY, MLFLOW, ARTIFACTS, DATASETS))
        and isinstance(listed, dict)
        and all(
            isinstance(entry, dict) and isinstance(entry.get("bytes"), int) and isinstance(entry.get("sha256"), str)
            for entry in listed.values()
        )
    )


def _is(path: Path, entry: dict[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == entry["bytes"] and sha256_file(path) == entry["sha256"]


def _check_database(file: Path, path: Path) -> None:
    if not path.is_file():
        return
    try:
        with closing(sqlite3.connect(path)) as database:
            (answer,) = database.execute("PRAGMA integrity_check").fetchone()
    except sqlite3.Error as error:
        answer = str(error)
    if answer != "ok":
        raise BackupError(f"{file}: {path.name} in it is damaged ({answer}). Nothing was restored.")


def _relocate(database: Path, before: str, after: str) -> None:
    """Have MLflow find its files where they lie now: its database names them by absolute paths."""
    if not database.is_file() or before == after:
        return
    pairs = [(before, after), (Path(before).as_uri(), Path(after).as_uri()), (f"file://{before}", f"file://{after}")]
    with closing(sqlite3.connect(database)) as opened, opened:
        tables = [name for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for _, column, kind, *_ in opened.execute(f'PRAGMA table_info("{table}")').fetchall():
                if "CHAR" not in kind.upper() and "TEXT" not in kind.upper():
                    continue
                for old, new in pairs:
                    opened.execute(
                        f'UPDATE "{table}" SET "{column}" = ? || substr("{column}", ?) '
                        f'WHERE "{column}" = ? OR substr("{column}", 1, ?) = ?',
                        (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
                    )
