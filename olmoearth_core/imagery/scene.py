"""Scenes, and the frozen list of them that a search found.

A list is a JSON file that names the catalogue as project.yaml does and holds each asset's address relative to the
catalogue's folder (an address of an API is kept as it is), so that it means the same on every machine.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from olmoearth_core.errors import CatalogueError, ImageryError
from olmoearth_core.framing import Timestep
from olmoearth_core.imagery.address import Address, is_url, join
from olmoearth_core.imagery.modality import get_modality
from olmoearth_core.imagery.presets import Named, catalogue_of, locate, preset_of, token_url
from olmoearth_core.store import write_json

SCHEMA_VERSION = 2
READABLE = (1, 2)

Stored = Literal["numbers", "power", "decibels"]
"""What the pixels of an asset are: whole numbers (reflectance x 10000, counts), linear backscatter, or dB of it."""


@dataclass(frozen=True)
class Scene:
    """One acquisition of one modality."""

    id: str
    modality: str
    collection: str | None
    datetime: dt.datetime
    """Of the acquisition, UTC."""
    cloud_cover: float | None
    """Per cent of the scene; None where the catalogue does not say."""
    assets: Mapping[str, str]
    """Band -> address, relative to the catalogue's folder or absolute (a URL)."""
    mask: str | None
    """Address of the per-pixel classification (SCL); None where the scene has none."""
    stored: Stored
    offset: int
    """What still has to be subtracted from the stored values (Sentinel-2 since baseline 04.00: 1000, else 0)."""
    reason: str
    """Which metadata decided `stored` and `offset`."""
    bbox: tuple[float, float, float, float]
    """West, south, east, north in degrees; west > east where it crosses the antimeridian."""
    nodata: float | None = None
    """What the catalogue declares as nodata besides 0 and what the files say themselves."""
    acquisition: str = ""
    """Scenes of one acquisition are parts of one look at the ground (neighbouring tiles of one overpass): where they
    overlap, a pixel was observed once. Empty for a scene that is alone (older lists do not say)."""
    version: str = ""
    """Changes when the scene's pixels do (imagery/version.py); empty where nothing tells (older lists do not say)."""
    checksums: Mapping[str, str] = field(default_factory=dict)
    """Band, or "mask" -> multihash (hex) of the file, where the catalogue tells one."""

    @property
    def date(self) -> dt.date:
        """The UTC day of the acquisition."""
        return self.datetime.date()

    @property
    def rank(self) -> tuple[float, dt.datetime, str]:
        """Sorts scenes from the one to prefer: cloud cover (unknown last), then the earliest, then by name.

        A property of the whole item, so that a window and a tile, and two neighbouring tiles, prefer the same.
        """
        return (101.0 if self.cloud_cover is None else self.cloud_cover, self.datetime, self.id)

    @property
    def addresses(self) -> list[str]:
        """Of all assets that may be read."""
        return [*self.assets.values(), *([self.mask] if self.mask else [])]

    def in_step(self, step: Timestep) -> bool:
        """Whether it was acquired in [step.start, step.end)."""
        return step.start <= self.date < step.end

    def to_json(self) -> dict[str, Any]:
        """JSON values; `from_json` gives an equal scene."""
        return {
            "id": self.id,
            "modality": self.modality,
            "collection": self.collection,
            "datetime": self.datetime.astimezone(dt.UTC).isoformat().replace("+00:00", "Z"),
            "cloud_cover": self.cloud_cover,
            "assets": dict(self.assets),
            "mask": self.mask,
            "stored": self.stored,
            "offset": self.offset,
            "reason": self.reason,
            "bbox": list(self.bbox),
            **({} if self.nodata is None else {"nodata": self.nodata}),
            **({"acquisition": self.acquisition} if self.acquisition else {}),
            **({"version": self.version} if self.version else {}),
            **({"checksums": dict(self.checksums)} if self.checksums else {}),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Scene:
        """The scene that `to_json` wrote."""
        west, south, east, north = map(float, value["bbox"])
        cloud_cover = value["cloud_cover"]
        return cls(
            id=str(value["id"]),
            modality=str(value["modality"]),
            collection=value["collection"],
            datetime=dt.datetime.fromisoformat(value["datetime"]).astimezone(dt.UTC),
            cloud_cover=None if cloud_cover is None else float(cloud_cover),
            assets={str(band): str(href) for band, href in value["assets"].items()},
            mask=value["mask"],
            stored=value.get("stored", "numbers"),
            offset=int(value["offset"]),
            reason=str(value["reason"] if "reason" in value else value["offset_reason"]),  # lists of version 1
            bbox=(west, south, east, north),
            nodata=value.get("nodata"),
            acquisition=str(value.get("acquisition", "")),
            version=str(value.get("version", "")),
            checksums={str(asset): str(told) for asset, told in value.get("checksums", {}).items()},
        )


@dataclass(frozen=True)
class SceneList:
    """The scenes that one search found, and where their assets are."""

    catalogue: Named
    """As in project.yaml: a preset's name, a URL, or a path relative to `root`; or one of them a modality."""
    query: Mapping[str, Any]
    """What was asked for; JSON values."""
    scenes: tuple[Scene, ...]
    """Ordered by date, then name."""
    root: Path
    """What a `catalogue` that is a path is relative to: the project folder, or the export folder. Not in the file."""
    dropped: tuple[Mapping[str, str], ...] = ()
    """Items that the search found and left out as copies or older versions of others: {"item", "reason"}."""
    _places: dict[str, tuple[str, str]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _addresses: dict[tuple[str, str | None, str], Address | str] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def address(self, scene: Scene, href: str) -> Address | str:
        """Where to read an asset of `scene`: a URL, or an absolute path."""
        key = scene.modality, scene.collection, href
        if key not in self._addresses:
            self._addresses[key] = self._address(*key)
        return self._addresses[key]

    @property
    def remote(self) -> bool:
        """Whether any asset lies behind a URL."""
        files = (self._catalogues(modality)[1] for modality in {scene.modality for scene in self.scenes})
        return any(map(is_url, files)) or any(is_url(href) for scene in self.scenes for href in scene.addresses)

    def _address(self, modality: str, collection: str | None, href: str) -> Address | str:
        name, file = self._catalogues(modality)
        place = href if is_url(href) else join(file, href)
        if not is_url(place):
            return place
        preset = preset_of(name)
        token = token_url(preset, place, file, collection)
        return Address(place, token_url=token, requester_pays=preset.requester_pays)

    def _catalogues(self, modality: str) -> tuple[str, str]:
        """The name and the place of the catalogue of a modality."""
        if modality not in self._places:
            name = catalogue_of(self.catalogue, modality)
            self._places[modality] = name, locate(name, self.root)
        return self._places[modality]

    @property
    def names(self) -> str:
        """The catalogues' names, for a message."""
        return self.catalogue if isinstance(self.catalogue, str) else ", ".join(dict.fromkeys(self.catalogue.values()))

    def to_json(self) -> dict[str, Any]:
        """JSON values: equal lists give equal JSON."""
        return {
            "schema_version": SCHEMA_VERSION,
            "catalogue": self.catalogue if isinstance(self.catalogue, str) else dict(self.catalogue),
            "query": dict(self.query),
            "scenes": [scene.to_json() for scene in self.scenes],
            **({"dropped": [dict(item) for item in self.dropped]} if self.dropped else {}),
        }

    def write(self, path: Path) -> None:
        """Write the list, whole or not at all."""
        write_json(path, self.to_json())


def read_scenes(path: Path, root: Path) -> SceneList:
    """Read a frozen scene list.

    Args:
        path: the file: one of a project's scenes/*.json, or scenes.json of an export.
        root: what its addresses start from: the project folder for the first, the export folder for the second.

    Raises:
        CatalogueError: the file is missing or is no scene list.
    """
    try:
        value = json.loads(path.read_text())
        if value["schema_version"] not in READABLE:
            raise CatalogueError(
                f"{path}: scene list of version {value['schema_version']}, this platform reads {SCHEMA_VERSION}. "
                "Remove the file; the next run searches again."
            )
        scenes = tuple(Scene.from_json(scene) for scene in value["scenes"])
        catalogue = value["catalogue"]
        named = {str(k): str(v) for k, v in catalogue.items()} if isinstance(catalogue, dict) else str(catalogue)
        return SceneList(named, value["query"], scenes, root, tuple(value.get("dropped", ())))
    except FileNotFoundError:
        raise CatalogueError(f"{path}: no such scene list; run the stage again to search the catalogue") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CatalogueError(
            f"{path}: not a scene list of this platform ({type(error).__name__}: {error}). "
            "Remove the file; the next run searches again."
        ) from error


def available_bands(scenes: SceneList, modality: str) -> tuple[str, ...]:
    """The bands of `modality` that at least one of the scenes has, in the encoders' official order.

    A scene that lacks one of them is an observation lost when all are composed.

    Raises:
        ImageryError: no scene of this modality, or an unknown one.
    """
    have = {band for scene in scenes.scenes if scene.modality == modality for band in scene.assets}
    bands = tuple(band for band in get_modality(modality).bands if band in have)
    if not bands:
        raise ImageryError(f"none of the {len(scenes.scenes)} scenes has a band of the modality '{modality}'")
    return bands
