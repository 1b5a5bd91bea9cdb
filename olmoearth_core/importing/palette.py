"""Colours of classes: what everybody expects where the name says it, else what the colour-blind tell apart."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Iterable, Mapping, Sequence

KNOWN: Sequence[tuple[str, tuple[str, ...]]] = (
    ("water lake river sea ocean pond reservoir stream lagoon", ("#2c7fb8", "#41b6c4", "#253494", "#7fcdbb")),
    ("forest tree wood woodland woods deciduous coniferous", ("#1b7837", "#5aae61", "#00441b", "#8c9e3a")),
    ("grass grassland meadow pasture herbaceous vegetation", ("#a6d96a", "#d9ef8b", "#7fbc41", "#b8c97a")),
    ("crop cropland farmland field agriculture arable orchard vineyard", ("#e6c229", "#f1d97a", "#b8860b", "#d9a441")),
    ("urban built building residential industrial settlement city", ("#d7301f", "#fc8d59", "#990000", "#e78ac3")),
    ("road highway railway", ("#636363", "#969696", "#bdbdbd")),
    ("bare soil sand desert rock dune beach", ("#c8ad7f", "#dfc9a0", "#a6845b")),
    ("snow ice glacier", ("#b3e5fc", "#d6f1ff", "#81c9e8")),
    ("wetland marsh swamp bog mangrove peat", ("#35978f", "#80cdc1", "#01665e")),
    ("shrub shrubland bush scrub heath", ("#bf812d", "#dfc27d", "#8c510a")),
    ("burnt burned fire wildfire", ("#7f2704", "#d94801", "#fd8d3c")),
    ("cloud", ("#eeeeee", "#d9d9d9")),
)
"""Words in a class name, one of which means these colours, for the first class, the second ..."""
NOT = frozenset({"no", "non", "not", "other", "without", "background"})
"""Words after which a class is not what its name says."""
TOLD_APART = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442", "#999999")
"""Wong 2011, Points of view: Color blindness, Nature Methods 8:441; after Okabe and Ito."""


def colours(names: Iterable[str], given: Mapping[str, str] | None = None) -> list[str]:
    """A colour, "#rrggbb", for each class name, the one `given` for it where there is one; no two are the same."""
    names = list(names)
    chosen = {k: given[name] for k, name in enumerate(names) if given and name in given}
    for k, name in enumerate(names):
        if k not in chosen and (free := [colour for colour in _known(name) if colour not in chosen.values()]):
            chosen[k] = free[0]
    for k in range(len(names)):
        if k not in chosen:
            chosen[k] = _another(list(chosen.values()))
    return [chosen[k] for k in range(len(names))]


def _known(name: str) -> tuple[str, ...]:
    """The colours that a name is known by; the last word that says anything decides ("forest road" is a road)."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]  # also of "SeaLake"
    if NOT & set(words):
        return ()
    for word in reversed(words):
        for known, shades in KNOWN:
            if {word, word.removesuffix("s")} & set(known.split()):
                return shades
    return ()


def _another(used: Sequence[str]) -> str:
    """Of the palette the colour that is least like those used; when it is used up, a hue by the golden angle."""
    if free := [colour for colour in TOLD_APART if colour not in used]:
        return max(free, key=lambda colour: min((_apart(colour, other) for other in used), default=0.0))
    turn = len(used)
    while True:
        red, green, blue = colorsys.hls_to_rgb((0.08 + turn * 0.381966) % 1, 0.4 + 0.15 * (turn % 3), 0.55)
        colour = f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
        if colour not in used:
            return colour
        turn += 1


def _apart(one: str, other: str) -> float:
    """How far two colours are from each other, in red, green and blue."""
    pairs = zip(bytes.fromhex(one[1:]), bytes.fromhex(other[1:]), strict=True)
    return float(sum((a - b) ** 2 for a, b in pairs))
