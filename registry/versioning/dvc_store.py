"""How DVC names and keeps a folder's content, so that a dataset version can be named and verified without running DVC.

A folder's hash is the md5 of its listing (JSON, `md5` and `relpath` of every file, by path) with the ending `.dir`; the
listing and the files lie in the cache and in remotes as files/md5/<first two digits>/<rest>.
"""

from __future__ import annotations

import configparser
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from registry.errors import VersioningError


def content_hash(folder: Path) -> str:
    """DVC's hash of `folder` as it is now."""
    listing = [
        {"md5": _md5(path), "relpath": path.relative_to(folder).as_posix()}
        for path in folder.rglob("*")
        if path.is_file()
    ]
    listing.sort(key=lambda entry: entry["relpath"])
    return f"{hashlib.md5(json.dumps(listing).encode(), usedforsecurity=False).hexdigest()}.dir"


def stored_files(repository: Path, dvc_hash: str) -> dict[str, Path] | None:
    """Where the cache or a local remote of the DVC repository keeps the files of a folder.

    Returns:
        Path in the folder -> file; None where no store on this machine has the listing and every file.
    """
    for store in _stores(repository):
        listing = store / dvc_hash[:2] / dvc_hash[2:]
        try:
            entries = json.loads(listing.read_text())
        except (OSError, ValueError):
            continue
        files = {entry["relpath"]: store / entry["md5"][:2] / entry["md5"][2:] for entry in entries}
        if all(path.is_file() for path in files.values()):
            return files
    return None


def holds(remote: str | None, hashes: Iterable[str]) -> bool:
    """Whether a local remote has the listings of these folders, which DVC writes last; others are believed."""
    if remote is None or urlsplit(remote).scheme:
        return remote is not None
    return all((Path(remote) / "files" / "md5" / found[:2] / found[2:]).is_file() for found in hashes)


def find_repository(folder: Path, top: Path) -> Path | None:
    """The DVC repository around `folder`, looking up as far as `top`."""
    for place in (folder, *folder.parents):
        if (place / ".dvc" / "config").is_file():
            return place
        if place == top:
            return None
    return None


def default_remote(repository: Path) -> str | None:
    """URL or folder of the DVC repository's default remote; None where it has none.

    Raises:
        VersioningError: DVC's configuration cannot be read.
    """
    settings = _settings(repository)
    name = settings.get("core", "remote", fallback=None)
    url = settings.get(f"'remote \"{name}\"'", "url", fallback=None) if name else None
    if url is None or urlsplit(url).scheme:
        return url
    return str((repository / ".dvc" / url).resolve())  # DVC counts a relative path from its own folder


def _settings(repository: Path) -> configparser.ConfigParser:
    settings = configparser.ConfigParser(interpolation=None, strict=False)
    for name in ("config", "config.local"):
        path = repository / ".dvc" / name
        try:
            settings.read(path)
        except configparser.Error as error:
            raise VersioningError(f"{path}: not a DVC configuration ({' '.join(str(error).split())}).") from error
    return settings


def _stores(repository: Path) -> Iterator[Path]:
    cache = _settings(repository).get("cache", "dir", fallback="cache")
    yield repository / ".dvc" / cache / "files" / "md5"
    remote = default_remote(repository)
    if remote is not None and not urlsplit(remote).scheme:
        yield Path(remote) / "files" / "md5"


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
