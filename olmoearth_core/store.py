"""Every output, whole or not at all: written under a temporary name, flushed, renamed."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from olmoearth_core.errors import StoreError

PARTIAL = ".partial"


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's write faults below `path` into one clear StoreError.

    Raises:
        StoreError: the disk is full, or the place cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreError(
                f"{path}: the disk is full. Finished work is kept; free some space and run the same command again."
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise StoreError(
                f"{path}: cannot be written ({error.strerror}). Check the folder's permissions."
            ) from error
        raise


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success it is flushed to disk and renamed to `path`.

    On any error the temporary file is removed and `path` keeps its former content.

    Raises:
        StoreError: the disk is full, or the place cannot be written.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 `content` to `path`, whole or not at all."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def publish_folder(finished: Path, place: Path, trash: Path) -> None:
    """Move the folder `finished` to `place`; what stood there goes away only after the move.

    A kill between the two renames leaves `finished` complete, so that the next run publishes it again.
    All three paths lie on one file system.
    """
    with disk_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(trash, ignore_errors=True)
        if place.exists():
            trash.parent.mkdir(parents=True, exist_ok=True)
            place.rename(trash)
        finished.rename(place)
        shutil.rmtree(trash, ignore_errors=True)
