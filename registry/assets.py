"""The files of scenes: where each was read, and what is known of its content."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import CoreError
from olmoearth_core.imagery.scene import Scene, SceneList

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
    """sha256:<hex>, multihash:<hex>, or empty."""


def assets_of(listed: SceneList) -> list[AssetFact]:
    """The files of all scenes of a list, in order."""
    found = []
    for scene in sorted(listed.scenes, key=lambda scene: (scene.modality, scene.id)):
        files = {**scene.assets, **({"mask": scene.mask} if scene.mask else {})}
        found += [_asset(listed, scene, name, href) for name, href in sorted(files.items())]
    return found


def _asset(listed: SceneList, scene: Scene, name: str, href: str) -> AssetFact:
    try:
        place = str(listed.address(scene, href))
    except CoreError:  # a catalogue that this platform no longer knows by its name
        place = href
    return AssetFact(scene.modality, scene.id, name, place, _checksum(scene, name, Path(place)))


def _checksum(scene: Scene, name: str, path: Path) -> str:
    if told := scene.checksums.get(name):
        return f"multihash:{told}"
    try:
        return f"sha256:{sha256_file(path)}" if path.is_file() and path.stat().st_size <= SMALL else ""
    except OSError:
        return ""
