"""The platform's own source as one archive: what ran can be had again, committed or not, with git or without.

An uncompressed tar with sorted names and without times or owners, so that equal code gives equal bytes.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from functools import cache
from pathlib import Path

from registry.context import CODE, FLOORS
from registry.errors import ArtifactError

NOT_SOURCE = ("__pycache__", ".mypy_cache")


@cache
def pack_source(root: Path = CODE) -> bytes:
    """The archive of the three packages below `root`; made once: the code that runs is the code that was imported."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(path for floor in FLOORS for path in (root / floor).rglob("*") if _is_source(path)):
            entry = tarfile.TarInfo(path.relative_to(root).as_posix())
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                archive.addfile(entry, file)
    return content.getvalue()


def _is_source(path: Path) -> bool:
    return path.is_file() and path.suffix != ".pyc" and not any(part in NOT_SOURCE for part in path.parts)


def source_sha256() -> str:
    """The name of the code that runs here."""
    return hashlib.sha256(pack_source()).hexdigest()


def unpack_source(archive: Path, folder: Path) -> None:
    """Lay the three packages into `folder`.

    Raises:
        ArtifactError: the file is no such archive, or wants to write elsewhere.
    """
    try:
        with tarfile.open(archive) as opened:
            opened.extractall(folder, filter="data")
    except (tarfile.TarError, OSError) as error:
        raise ArtifactError(f"{archive}: not an archive of the platform's code ({error}).") from error


def differing_files(archive: Path, root: Path = CODE) -> list[str]:
    """The files that are not the same in the archive and below `root`, or in one of them only, by name."""
    with tarfile.open(archive) as opened, tarfile.open(fileobj=io.BytesIO(pack_source(root))) as here:
        return sorted({name for name, _ in _contents(opened).items() ^ _contents(here).items()})


def _contents(archive: tarfile.TarFile) -> dict[str, str]:
    found = {}
    for entry in archive:
        if (file := archive.extractfile(entry)) is not None:
            found[entry.name] = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    return found
