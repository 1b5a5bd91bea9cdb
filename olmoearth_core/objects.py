"""Named bytes in a folder or under an S3 prefix: for what machines exchange that share no disk, and for what is kept.

They appear whole or not at all under their name, whoever looks: a file is renamed into place (store.py), an object of
S3 is there once its upload has ended.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from olmoearth_core.errors import CoreError, ImageryError, StoreError, TransientError
from olmoearth_core.imagery.access import Access, Result, one_line, s3_said
from olmoearth_core.store import disk_errors, whole_file, write_bytes


class Objects(Protocol):
    """A place for named bytes, names with slashes in them; safe between threads.

    Raises:
        StoreError: the place refuses, is full, or cannot be reached in all attempts.
    """

    address: str

    def put(self, name: str, content: bytes | Path) -> None:
        """Have `content`, or that of a file however large, under `name`, whole or not at all."""
        ...

    def get(self, name: str) -> bytes | None:
        """What lies under `name`; None where there is nothing."""
        ...

    def copy(self, name: str, target: Path) -> bool:
        """Have what lies under `name` in the file `target`, whole or not at all; False where there is nothing."""
        ...

    def size(self, name: str) -> int | None:
        """Bytes under `name`; None where there is nothing."""
        ...

    def remove(self, name: str) -> None:
        """Have nothing under `name`."""
        ...


def open_objects(address: str) -> Objects:
    """The place at `address`: a folder (a path or file:// URL), or s3://bucket/prefix. Asks nobody.

    Raises:
        StoreError: a URL of another kind.
    """
    parts = urlsplit(address)
    if parts.scheme == "s3":
        return Bucket(address)
    if parts.scheme in ("", "file"):
        return Folder(unquote(parts.path) if parts.scheme else address)
    raise StoreError(f"{address}: cannot be used; it must be a folder, or s3://bucket/prefix.")


class Folder:
    """A folder of this machine, or one that several machines share."""

    def __init__(self, address: str) -> None:
        self.address = address

    def put(self, name: str, content: bytes | Path) -> None:
        """As of `Objects`."""
        try:
            if isinstance(content, bytes):
                write_bytes(self._path(name), content)
                return
            with whole_file(self._path(name)) as partial:
                shutil.copyfile(content, partial)
        except FileNotFoundError as error:  # where no folder can be made: /proc, a share that went away
            raise StoreError(
                f"{self.address}: no folder can be made there. Check the place and its permissions."
            ) from error

    def get(self, name: str) -> bytes | None:
        """As of `Objects`."""
        with disk_errors(self._path(name)):
            try:
                return self._path(name).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def copy(self, name: str, target: Path) -> bool:
        """As of `Objects`."""
        if self.size(name) is None:
            return False
        with whole_file(target) as partial:
            shutil.copyfile(self._path(name), partial)
        return True

    def size(self, name: str) -> int | None:
        """As of `Objects`."""
        with disk_errors(self._path(name)):
            try:
                return self._path(name).stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None

    def remove(self, name: str) -> None:
        """As of `Objects`."""
        with disk_errors(self._path(name)):
            self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return Path(self.address) / name


class Bucket:
    """An S3 prefix, reached by the AWS_* settings of the environment (profile, keys, endpoint)."""

    def __init__(self, address: str) -> None:
        place = urlsplit(address)
        self.address, self._bucket, self._prefix = address.rstrip("/"), place.netloc, place.path.strip("/")
        self._access = Access()

    def put(self, name: str, content: bytes | Path) -> None:
        """As of `Objects`."""

        def write() -> None:
            if isinstance(content, bytes):
                self._s3.put_object(Bucket=self._bucket, Key=self._key(name), Body=content)
                return
            with content.open("rb") as file:
                self._s3.upload_fileobj(file, self._bucket, self._key(name))

        self._ask(name, write)

    def get(self, name: str) -> bytes | None:
        """As of `Objects`."""

        def read() -> bytes:
            return bytes(self._s3.get_object(Bucket=self._bucket, Key=self._key(name))["Body"].read())

        return self._ask(name, read)

    def copy(self, name: str, target: Path) -> bool:
        """As of `Objects`."""

        def read() -> bool:
            with whole_file(target) as partial, partial.open("wb") as file:
                self._s3.download_fileobj(self._bucket, self._key(name), file)
            return True

        return self._ask(name, read) or False

    def size(self, name: str) -> int | None:
        """As of `Objects`."""

        def ask() -> int:
            return int(self._s3.head_object(Bucket=self._bucket, Key=self._key(name))["ContentLength"])

        return self._ask(name, ask)

    def remove(self, name: str) -> None:
        """As of `Objects`."""
        self._ask(name, lambda: self._s3.delete_object(Bucket=self._bucket, Key=self._key(name)))

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    @cached_property
    def _s3(self) -> Any:
        try:
            return self._access.s3()
        except ImageryError as error:
            raise StoreError(f"{self.address}: {one_line(error)}") from error

    def _ask(self, name: str, request: Callable[[], Result]) -> Result | None:
        """The answer to a request, asked again where a fault may pass; None where there is no such object."""
        address = f"{self.address}/{name}"

        def attempt() -> Result | None:
            try:
                return request()
            except CoreError:  # of the disk here
                raise
            except Exception as error:
                fault, said = s3_said(error)
                if fault == "no object":
                    return None
                if fault == "passing":
                    raise TransientError(f"{address}: {said}") from error
                if fault == "forbidden":
                    said = f"these credentials may not use it ({said})"
                raise StoreError(
                    f"{address}: {said}. Check this address in the OLMOEARTH_* settings, and AWS_PROFILE or "
                    "AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL, on all machines that use it."
                ) from error

        try:
            return self._access.patiently(attempt)
        except TransientError as error:
            raise StoreError(f"{error}. Finished work is kept; run the same command again later.") from error
