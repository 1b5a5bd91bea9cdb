"""A folder, or a prefix of an S3 bucket: files by their names, read and written alike, whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from olmoearth_core.store import whole_file
from registry.errors import ArtifactError

MISSING = ("404", "NoSuchKey", "NotFound")


class Place(Protocol):
    """Where files lie by names with slashes in them.

    Raises:
        ArtifactError: it cannot be reached, or refuses.
        StoreError: a disk is full, or cannot be written.
    """

    where: str

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none of that name."""
        ...

    def write(self, name: str, source: Path) -> None:
        """Copy a file there."""
        ...

    def read(self, name: str, target: Path) -> bool:
        """Copy a file from there to `target`; False where there is none of that name."""
        ...


def open_place(where: str) -> Place:
    """The place at a folder (a path or file:// URL) or an s3:// URL; nothing is made or asked yet.

    Raises:
        ArtifactError: a URL of another kind.
    """
    parts = urlsplit(where)
    if parts.scheme == "s3":
        return _Bucket(where)
    if parts.scheme in ("", "file"):
        return _Folder(unquote(parts.path) if parts.scheme else where)
    raise ArtifactError(f"{where}: cannot be read from here; files can be had from folders and s3:// only.")


class _Folder:
    def __init__(self, where: str) -> None:
        self.where = where

    def size(self, name: str) -> int | None:
        try:
            return (Path(self.where) / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise ArtifactError(f"{Path(self.where) / name}: cannot be looked at ({error.strerror}).") from error

    def write(self, name: str, source: Path) -> None:
        with whole_file(Path(self.where) / name) as partial:
            shutil.copyfile(source, partial)

    def read(self, name: str, target: Path) -> bool:
        if self.size(name) is None:
            return False
        with whole_file(target) as partial:
            try:
                shutil.copyfile(Path(self.where) / name, partial)
            except PermissionError as error:
                raise ArtifactError(f"{Path(self.where) / name}: cannot be read ({error.strerror}).") from error
        return True


class _Bucket:
    """Server and keys are those of boto3's usual settings (AWS_*)."""

    def __init__(self, where: str) -> None:
        self.where = where
        parts = urlsplit(where)
        self._bucket, self._prefix = parts.netloc, parts.path.strip("/")
        self._opened: Any = None

    def size(self, name: str) -> int | None:
        from botocore.exceptions import ClientError

        with self._told() as client:
            try:
                return int(client.head_object(Bucket=self._bucket, Key=self._key(name))["ContentLength"])
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in MISSING:
                    return None
                raise

    def write(self, name: str, source: Path) -> None:
        with self._told() as client:
            client.upload_file(os.fspath(source), self._bucket, self._key(name))

    def read(self, name: str, target: Path) -> bool:
        if self.size(name) is None:
            return False
        with whole_file(target) as partial, self._told() as client:
            client.download_file(self._bucket, self._key(name), os.fspath(partial))
        return True

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}".lstrip("/")

    @contextmanager
    def _told(self) -> Iterator[Any]:
        """A client; what the server refuses becomes one sentence."""
        import boto3
        from boto3.exceptions import Boto3Error
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            if self._opened is None:
                patience = Config(connect_timeout=10, read_timeout=60, retries={"max_attempts": 4, "mode": "standard"})
                self._opened = boto3.session.Session().client(
                    "s3", config=patience
                )  # the shared one is not for threads
            yield self._opened
        except (Boto3Error, BotoCoreError, ClientError) as error:
            said = " ".join(str(error).split())
            raise ArtifactError(f"{self.where}: {said}. Check the AWS_* settings and the server.") from error
