"""Every output, whole or not at all: written under a temporary name, flushed, renamed."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from olmoearth_core.errors import CoreError, StoreError

PARTIAL = ".partial"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
_FULL_WORDS = ("No space left on device", "Disk quota exceeded", "File too large", "database or disk is full")


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what goes wrong with the disk while writing below `path` into one clear StoreError.

    Raises:
        StoreError: the disk is full, or the place cannot be written.
    """
    try:
        yield
    except CoreError:
        raise
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else None
        if _is_full(error, code, path):
            raise StoreError(
                f"{path}: the disk is full. Finished work is kept; free some space and run the same command again."
            ) from error
        if isinstance(error, OSError) and code in _NO_ACCESS:
            raise StoreError(
                f"{error.filename or path}: cannot be used ({error.strerror}). Check the place and its permissions."
            ) from error
        raise


def _is_full(error: Exception, code: int | None, path: Path) -> bool:
    if code is not None:
        return code in _FULL
    if any(words in str(error) for words in _FULL_WORDS):  # safetensors and others pass on the words alone
        return True
    if not isinstance(error, OSError | RuntimeError):
        return False
    # GDAL says that a write failed, not why: is there room for one more megabyte?
    folder = next(p for p in (path, *path.absolute().parents) if p.is_dir())
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(2**20))
    except OSError as refusal:
        return refusal.errno in _FULL
    return False


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success it is flushed to disk and renamed to `path`.

    On any error the temporary file is removed and `path` keeps its former content.

    Raises:
        StoreError: the disk is full, or the place cannot be written.
    """
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(path)
    finally:
        with suppress(OSError):  # the first error is the one to tell
            partial.unlink(missing_ok=True)


def remove_partials(folder: Path) -> None:
    """Remove what writers that were killed left below `folder`. Nobody may be writing there."""
    for path in list(folder.rglob(f"*{PARTIAL}")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_bytes(content)


def same_file(source: Path, target: Path) -> None:
    """Have the content of `source` at `target` as well, whole or not at all: the same bytes on disk where that can be.

    Nothing here writes into a finished file, so neither place can change the other.

    Raises:
        StoreError: the disk is full, or the place cannot be written.
    """
    with whole_file(target) as partial:
        try:
            os.link(source, partial)
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(source, partial)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 `content` to `path`, whole or not at all."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def publish_folder(finished: Path, place: Path, trash: Path) -> None:
    """Move the folder `finished` to `place`; what stood there goes away only after the move.

    A kill between the two renames leaves `finished` complete, so that the next run publishes it again; an error there
    puts back what stood at `place`.

    Raises:
        StoreError: the place cannot be written, or the three paths do not lie on one file system.
    """
    with disk_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        trash.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(trash, ignore_errors=True)
        if place.exists():
            move(place, trash)
        try:
            move(finished, place)
        except BaseException:
            if trash.exists() and not place.exists():
                trash.rename(place)
            raise
        shutil.rmtree(trash, ignore_errors=True)


def move(source: Path, target: Path) -> None:
    """Rename a folder.

    Raises:
        StoreError: the two do not lie on one file system.
    """
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        raise StoreError(
            f"{target}: lies on another file system than {source}, so that nothing can be moved there whole. "
            "Keep the project folder on one disk (link the whole folder, not a part of it)."
        ) from error
