"""What somebody asks about: a name, or a file or folder and what it says of itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import CoreError
from olmoearth_core.manifest import Manifest, read_manifest
from registry.errors import AuditError
from registry.fingerprint import pixels_sha256, tags_of

MAP_ID, PREFIX = "OLMOEARTH_MAP_ID", "OLMOEARTH_"
ENCODER = "OLMOEARTH_ENCODER"
"""What embeddings have, and no map."""
ITEM_PREFIX = "olmoearth:"
"""What our properties of a STAC Item begin with: `olmoearth:model` says what the tag OLMOEARTH_MODEL says."""
LARGEST_ITEM = 16 * 2**20
DEPTH = 4
"""How far above a file its manifest is looked for: cubes.zarr/<array>/c/<shard> lies deepest."""


@dataclass(frozen=True)
class Thing:
    """What was asked about. Nothing is read of a file before it is needed: maps are large."""

    asked: str
    """As it was written."""
    path: Path | None
    """The file or folder of that name; None where there is none, and it can only be a name."""

    @classmethod
    def named(cls, asked: str | Path) -> Thing:
        """The file or folder `asked` where there is one, else a name; a `Path` has to be there.

        Raises:
            AuditError: a path that is not there.
        """
        try:
            path = Path(asked).expanduser().absolute()
            there = bool(str(asked).strip()) and path.exists()
        except (RuntimeError, OSError, ValueError) as error:
            raise AuditError(f"{str(asked)[:80]!r}: cannot be a file or a name ({str(error)[:80]}).") from error
        if there and not (path.is_file() or path.is_dir()):
            raise AuditError(f"{path}: is neither a file nor a folder. Name a map's file, or its folder.")
        if there:
            return cls(str(asked), path)
        if isinstance(asked, Path):
            raise AuditError(
                f"{path}: no such file. Name a map's file, for example maps/<map id>/map.tif of a project."
            )
        return cls(asked, None)

    @property
    def file(self) -> Path | None:
        """The path, where it is a file."""
        return self.path if self.path is not None and self.path.is_file() else None

    @cached_property
    def sha256(self) -> str | None:
        """Of the file's bytes.

        Raises:
            AuditError: it cannot be read.
        """
        if self.file is None:
            return None
        try:
            return sha256_file(self.file)
        except OSError as error:
            raise AuditError(f"{self.path}: cannot be read ({error.strerror}).") from error

    @cached_property
    def claims(self) -> dict[str, str]:
        """What the file says that it is: the platform's tags of a raster, or the same of a STAC Item; else nothing."""
        if self.file is None:
            return {}
        if self.file.suffix.lower() in (".json", ".geojson"):
            return _item_claims(self.file)
        try:
            return tags_of(self.file)
        except AuditError:
            return {}

    @cached_property
    def pixels(self) -> str | None:
        """Digest of a raster's pixels and georeference; None of anything else."""
        return self._pixels[0]

    @property
    def why_no_raster(self) -> str:
        """A sentence where the file cannot be read as a raster."""
        return self._pixels[1]

    @cached_property
    def _pixels(self) -> tuple[str | None, str]:
        if self.file is None:
            return None, ""
        try:
            return pixels_sha256(self.file), ""
        except AuditError as error:
            return None, str(error)

    @cached_property
    def manifest(self) -> tuple[Path, Manifest] | None:
        """The outputs of a stage that the folder is, or that the file belongs to byte for byte: (folder, manifest)."""
        if self.path is None:
            return None
        if self.file is None:
            found = _manifest(self.path)
            return (self.path, found) if found is not None else None
        for folder in self.file.parents[:DEPTH]:
            if (found := _manifest(folder)) is not None:
                listed = found.outputs.get(self.file.relative_to(folder).as_posix())
                return (folder, found) if listed is not None and listed.sha256 == self.sha256 else None
        return None


def _manifest(folder: Path) -> Manifest | None:
    try:
        return read_manifest(folder)
    except (CoreError, OSError):  # somebody else's file of that name
        return None


def _item_claims(path: Path) -> dict[str, str]:
    """What a STAC Item says of a map, under the names of the GeoTIFF tags."""
    if path.stat().st_size > LARGEST_ITEM:
        return {}
    try:
        item: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    properties = item.get("properties") if isinstance(item, dict) else None
    if not isinstance(properties, dict) or "stac_version" not in item:
        return {}
    told = {
        f"{PREFIX}{name.removeprefix(ITEM_PREFIX).upper()}": str(value)
        for name, value in properties.items()
        if name.startswith(ITEM_PREFIX)
    }
    if not told or ENCODER in told:  # embeddings are no map
        return told
    return {MAP_ID: str(item.get("id")), **told}  # the Item of one zone has an id of its own, and names the map
