"""The files of scenes: where each was read, and what is known of its content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import CoreError
from olmoearth_core.imagery.access import Access
from olmoearth_core.imagery.scene import Scene, SceneList

ETAG = "etag:"
SMALL = 64 * 2**20
"""Bytes of a local file that is hashed without being asked: to read a whole archive would take longer than the map."""


@dataclass(frozen=True)
class AssetFact:
    """One file of a scene; a row of `schema.SceneAsset` to be."""

    modality: str
    scene: str
    name: str
    """Band, or "mask"."""
    href: str
    """A URL without what permits to read it, or an absolute path."""
    checksum: str
    """sha256:<hex>, multihash:<hex>, etag:<value>, or empty."""


def assets_of(listed: SceneList, access: Access) -> list[AssetFact]:
    """The files of all scenes of a list, in order; servers are asked for the ETags of those without a checksum."""
    found = []
    for scene in sorted(listed.scenes, key=lambda scene: (scene.modality, scene.id)):
        files = {**scene.assets, **({"mask": scene.mask} if scene.mask else {})}
        found += [_asset(listed, scene, name, href) for name, href in sorted(files.items())]
    return _with_etags(found, access)


def _asset(listed: SceneList, scene: Scene, name: str, href: str) -> AssetFact:
    try:
        place = listed.address(scene, href)  # it may know how permission to read it is had
    except CoreError:  # a catalogue that this platform no longer knows by its name
        place = href
    return AssetFact(scene.modality, scene.id, name, place, _checksum(scene, name, Path(place)))


def _with_etags(assets: Sequence[AssetFact], access: Access) -> list[AssetFact]:
    from olmoearth_core.imagery.etag import etags

    known = etags([asset.href for asset in assets if not asset.checksum], access)
    told = {href: f"{ETAG}{etag}" for href, etag in known.items()}
    return [replace(asset, href=str(asset.href), checksum=told.get(asset.href, asset.checksum)) for asset in assets]


def _checksum(scene: Scene, name: str, path: Path) -> str:
    if told := scene.checksums.get(name):
        return f"multihash:{told}"
    try:
        return f"sha256:{sha256_file(path)}" if path.is_file() and path.stat().st_size <= SMALL else ""
    except OSError:
        return ""
