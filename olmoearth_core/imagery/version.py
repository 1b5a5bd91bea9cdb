"""Which version of its pixels a scene has: told from content where that is at hand, else from what the item says.

A scene may be processed anew under the same name and address. The frozen list remembers which version the search found,
so that a map knows which of its tiles another one would change (inference/keys.py). In the order of trust:

    1. files on this machine      a sha256 of samples of their bytes (`sampled_digest`)
    2. `file:checksum`            where every asset that is used declares one
    3. the item's properties      when it was updated, and by which processing
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from olmoearth_core.digest import sha256_json
from olmoearth_core.imagery.address import is_url, join

SAMPLES, SAMPLE = 8, 2**16
"""Pieces of a file that are read, and their bytes. A compressed raster whose pixels changed has blocks of other sizes,
which stand in its header: at its beginning or its end."""
_PROPERTIES = (
    "updated",
    "processing:version",
    "processing:datetime",
    "s2:processing_baseline",
    "s2:generation_time",
    "s2:product_uri",
    "landsat:scene_id",
)


def declared_version(item: dict[str, Any], assets: Iterable[str]) -> str:
    """What a STAC Item (JSON) says of the version of those of its `assets` (names) that are used; empty: nothing."""
    checksums = {name: item["assets"][name].get("file:checksum") for name in assets}
    said = {key: item["properties"][key] for key in _PROPERTIES if item["properties"].get(key)}
    told = checksums if all(checksums.values()) else said
    return sha256_json(told)[:16] if told else ""


def content_version(addresses: Iterable[str], catalogue: str) -> str:
    """The version of files on this machine, from their bytes; empty where one is elsewhere, or not there.

    Args:
        addresses: of a scene's assets, as the scene has them.
        catalogue: address of the catalogue's file, which they are relative to.
    """
    places = [join(catalogue, address) for address in sorted(set(addresses))]
    if any(is_url(place) for place in places):
        return ""
    digests = [sampled_digest(Path(place)) for place in places]
    return sha256_json(digests)[:16] if all(digests) else ""


def sampled_digest(path: Path) -> str:
    """sha256 of a file's size and of `SAMPLES` pieces of it, evenly spaced; of all of a small one. Empty: not there."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256(str(size).encode())
            for k in range(SAMPLES):
                file.seek(max(0, size - SAMPLE) * k // (SAMPLES - 1) if size > SAMPLES * SAMPLE else k * SAMPLE)
                digest.update(file.read(SAMPLE))
            return digest.hexdigest()
    except OSError:
        return ""
