"""Catalogues that are known by name, and what their servers want of those who read there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from olmoearth_core.imagery.address import is_url, join

Named = str | Mapping[str, str]
"""`imagery.catalogue` of project.yaml: one name for all modalities, or a name for each."""


@dataclass(frozen=True)
class Preset:
    """One known catalogue."""

    url: str
    """Of its STAC API."""
    token_url: str = ""
    """Where a token to read the assets of a collection is given, below this address; empty where none is needed."""
    token_hosts: str = ""
    """How the names of the hosts end that want such a token. No other host is ever shown one."""
    requester_pays: bool = False
    """Whether its buckets have the reader pay, who must therefore be known to AWS."""
    prefers: str = ""
    """Which of an asset's `alternate` addresses to take; empty for the asset's own."""


PRESETS: Mapping[str, Preset] = {
    "earth-search": Preset("https://earth-search.aws.element84.com/v1"),
    "planetary-computer": Preset(
        "https://planetarycomputer.microsoft.com/api/stac/v1",
        token_url="https://planetarycomputer.microsoft.com/api/sas/v1/token",
        token_hosts=".blob.core.windows.net",
    ),
    # its https addresses ask a person to log in; the same files lie in a bucket
    "usgs": Preset("https://landsatlook.usgs.gov/stac-server", requester_pays=True, prefers="s3"),
}
OWN = Preset("")
"""A catalogue that is named by its URL or path."""


def preset_of(name: str) -> Preset:
    """What is known of a catalogue as project.yaml names it."""
    return PRESETS.get(name.partition("@")[0], OWN)


def catalogue_of(named: Named, modality: str) -> str:
    """The name of the catalogue that `modality` is searched in."""
    return named if isinstance(named, str) else named[modality]


def locate(name: str, root: Path) -> str:
    """A catalogue's name in project.yaml -> the URL, or the absolute path.

    Args:
        name: a preset's name, a preset at another address (`planetary-computer@https://mirror.example/stac`: the same
            rules elsewhere), a URL, or a path.
        root: the folder that a path starts from.
    """
    preset, at, elsewhere = name.partition("@")
    if preset in PRESETS:
        return elsewhere if at else PRESETS[preset].url
    return name if is_url(name) else join(str(root / "project.yaml"), str(Path(name).expanduser()))


def absent_catalogue(named: Named, modalities: Iterable[str], root: Path) -> str | None:
    """The absolute path of the first catalogue of files that is not on this machine; None where all are, or have URLs.

    Args:
        named: `imagery.catalogue` of project.yaml.
        modalities: that are searched.
        root: the folder that a path starts from.
    """
    places = (locate(catalogue_of(named, modality), root) for modality in modalities)
    return next((place for place in places if not is_url(place) and not Path(place).exists()), None)


def token_url(preset: Preset, address: str, catalogue: str, collection: str | None) -> str:
    """Where the token is given that `address` needs; empty where it needs none, or its host must not see one.

    PC_SDK_SAS_URL names another server for tokens, as it does for the Planetary Computer's own tools.

    Args:
        preset: what is known of the catalogue.
        address: of the asset.
        catalogue: URL of the catalogue; the host of a mirror may see its own tokens.
        collection: of the scene.
    """
    place = urlsplit(address)
    if not preset.token_url or place.scheme not in ("http", "https"):
        return ""
    own = catalogue != preset.url and place.hostname == urlsplit(catalogue).hostname
    if not own and not str(place.hostname).endswith(preset.token_hosts):
        return ""
    base = os.environ.get("PC_SDK_SAS_URL") or preset.token_url
    return f"{base.rstrip('/')}/{collection}"
