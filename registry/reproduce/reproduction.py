"""What came of making a map again: the two compared, a verdict, and what may explain a difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from olmoearth_core.again.compare import NONE, Difference, compare_rasters
from olmoearth_core.again.recipe import MAP, TILES, Made
from olmoearth_core.digest import sha256_file
from olmoearth_core.errors import MappingError
from registry.fingerprint import pixels_sha256
from registry.mlflow.run import WEIGHTS
from registry.outputs import find_output
from registry.reproduce.behind import Behind
from registry.tables import schema

Verdict = Literal["equal", "tolerated", "differs", "not made"]
Outcome = Literal["equal", "same pixels", "differs", "not made"]

MOST_DIFFERING = 0.005
"""Share of pixels that other hardware or libraries may show as another class."""
MOST_APART = 0.05
"""Largest difference of a probability, or of a value as a share of its range, that they may make."""


@dataclass(frozen=True)
class Compared:
    """One file, made again and as it was recorded."""

    name: str
    outcome: Outcome
    """same pixels: in other bytes, as other versions of GDAL compress them."""
    detail: str = ""
    difference: Difference | None = None
    """Pixel by pixel; None where there is no need, or the recorded file is not here to compare with."""


@dataclass(frozen=True)
class Reproduction:
    """A map made again, compared with what was recorded of it."""

    map: str
    project: str
    folder: str
    """Where it was made."""
    environment: str
    """current, or recorded: made by the code and the libraries of that time."""
    verdict: Verdict
    sentence: str
    recorded_tiles: int
    tiles: list[Compared]
    """Those that were made again."""
    products: list[Compared]
    """Files of the map; none where only a sample of tiles was made."""
    model: list[Compared]
    """Files of the model, where it was trained again."""
    reasons: list[str]
    """What is not as it was recorded, and may explain a difference."""
    seconds: float
    difference: Difference = field(default=NONE)
    """Over the tiles that were compared pixel by pixel; over rasters of the map where the tiles are the same."""

    @property
    def holds(self) -> bool:
        """Whether the map came out as it was, or as near as other hardware and libraries let it, and the model did."""
        return self.verdict in ("equal", "tolerated") and self.same_weights is not False

    @property
    def same_weights(self) -> bool | None:
        """Whether the training gave the recorded weights bit for bit; None where none was asked for."""
        return next((one.outcome == "equal" for one in self.model if one.name == WEIGHTS), None)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "holds": self.holds, "same_weights": self.same_weights}


def compare(
    behind: Behind, folder: Path, made: Made, reasons: Sequence[str], *, environment: str, model: Mapping[str, str]
) -> Reproduction:
    """Hold what was made in `folder` against the registry's rows, and against the recorded files where they are here.

    Args:
        behind: the map.
        folder: of the recipe.
        made: how it went.
        reasons: what is not as it was.
        environment: current or recorded.
        model: file -> sha256 of the recorded model.
    """
    here = Originals(behind)
    rows = {tile.name.removesuffix(".tif"): tile.sha256 for tile in behind.map.tiles}
    tiles = [_tile(here, folder / TILES, name, sha256, rows.get(name)) for name, sha256 in sorted(made.tiles.items())]
    tiles += [Compared(name, "not made", why) for name, why in sorted(made.failed.items())]
    products = [
        _product(here, folder / MAP, product, made.products.get(product.name))
        for product in behind.map.products
        if made.products
    ]
    retrained = [
        Compared(name, "equal" if made.retrained.get(name) == sha256 else "differs")
        for name, sha256 in sorted(model.items())
        if made.retrained
    ]
    everything = [*tiles, *(p for p in products if p.name.endswith(".tif"))]
    # products are made of tiles: theirs are counted only where the tiles are the same
    counted = [one.difference for one in tiles if one.difference] or [p.difference for p in everything if p.difference]
    difference = sum(counted, start=NONE)
    of_values = behind.run("postprocess").settings.get("task", {}).get("range")
    verdict = _verdict(everything, difference, reasons, of_values)
    return Reproduction(
        map=behind.map.name,
        project=behind.map.project.name,
        folder=str(folder),
        environment=environment,
        verdict=verdict,
        sentence=_sentence(behind.map, verdict, tiles, products, difference),
        recorded_tiles=len(rows),
        tiles=tiles,
        products=products,
        model=retrained,
        reasons=list(reasons),
        seconds=made.seconds,
        difference=difference,
    )


class Originals:
    """Recorded files that are here, unchanged: beside the file that was asked about, or in a project folder."""

    def __init__(self, behind: Behind) -> None:
        self._known = {product.name: product.sha256 for product in behind.map.products}
        self._products = [behind.file.parent] if behind.file is not None else []
        self._tiles: list[Path] = []
        for run in behind.runs:
            if run.stage in ("infer", "postprocess"):
                output = find_output(Path(run.project_folder), run.stage, run.digest)
                if output is not None:
                    (self._tiles if run.stage == "infer" else self._products).append(output.folder)

    def tile(self, name: str, sha256: str) -> Path | None:
        """The recorded tile."""
        return _first(self._tiles, f"{name}.tif", sha256)

    def product(self, name: str) -> Path | None:
        """The recorded product."""
        return _first(self._products, name, self._known[name]) if name in self._known else None


def _first(folders: Sequence[Path], name: str, sha256: str) -> Path | None:
    paths = (folder / name for folder in folders)
    return next((path for path in paths if path.is_file() and sha256_file(path) == sha256), None)


def _tile(here: Originals, folder: Path, name: str, sha256: str, recorded: str | None) -> Compared:
    if recorded is None:
        return Compared(name, "differs", "the map has no such tile")
    if sha256 == recorded:
        return Compared(name, "equal")
    path = folder / f"{name}.tif"
    if (tile := here.tile(name, recorded)) is not None:
        return _pixels(name, [(path, tile, 0)])
    zone = name.split("_")[0]  # in a map of several zones each has a file of its own
    wanted = [(f"{what}{of}.tif", skip) for what, skip in (("map", 0), ("probabilities", 1)) for of in ("", f"_{zone}")]
    pairs = [(path, file, skip) for product, skip in wanted if (file := here.product(product)) is not None]
    if not pairs:
        return Compared(name, "differs", "other bytes; the recorded files are not here to count its pixels")
    found = _pixels(name, pairs)
    if found.outcome == "same pixels":  # of the classes; the products do not hold all that a tile does
        return Compared(name, "same pixels", "as far as the map's files show it", found.difference)
    return found


def _product(here: Originals, folder: Path, product: schema.Product, sha256: str | None) -> Compared:
    name = product.name
    if sha256 is None:
        return Compared(name, "not made", "this code makes no such file")
    if sha256 == product.sha256:
        return Compared(name, "equal")
    if not name.endswith(".tif"):
        return Compared(name, "differs", "other bytes")
    if product.pixels_sha256 is not None and pixels_sha256(folder / name) == product.pixels_sha256:
        return Compared(name, "same pixels", "in other bytes")
    if (original := here.product(name)) is not None:
        return _pixels(name, [(folder / name, original, 0)])
    return Compared(name, "differs", "other pixels; the recorded file is not here to count them")


def _pixels(name: str, pairs: Sequence[tuple[Path, Path, int]]) -> Compared:
    """Compare a file with recorded ones, the first of which shows its classes or values."""
    try:
        found = [compare_rasters(made, recorded, skip=skip) for made, recorded, skip in pairs]
    except MappingError as error:
        return Compared(name, "differs", str(error))
    total = Difference(found[0].pixels, found[0].differing, max(one.largest for one in found))
    same = total.differing == 0 and total.largest == 0
    return Compared(name, "same pixels" if same else "differs", "", total)


def _verdict(
    compared: Sequence[Compared], difference: Difference, reasons: Sequence[str], of_values: Sequence[float] | None
) -> Verdict:
    outcomes = {one.outcome for one in compared}
    if "not made" in outcomes or not compared:
        return "not made"
    if "differs" not in outcomes:
        return "equal"
    counted = all(one.difference is not None for one in compared if one.outcome == "differs")  # the files are here
    most = MOST_APART * (of_values[1] - of_values[0] if of_values else 1)
    share = 0.0 if of_values else difference.differing / max(1, difference.pixels)  # nearly all values differ a little
    near = counted and share <= MOST_DIFFERING and difference.largest <= most
    return "tolerated" if near and reasons else "differs"


def _sentence(
    made: schema.Map, verdict: Verdict, tiles: Sequence[Compared], products: Sequence[Compared], difference: Difference
) -> str:
    count = f"{len(tiles)} of {len(made.tiles)} tiles" if len(tiles) != len(made.tiles) else f"all {len(tiles)} tiles"
    apart = (
        f"{difference.differing:,} of {difference.pixels:,} pixels differ "
        f"({difference.differing / max(1, difference.pixels):.3%}), the largest difference of a probability or value "
        f"is {difference.largest:.3g}"
    )
    if verdict == "not made":
        failed = [one.name for one in (*tiles, *products) if one.outcome == "not made"]
        return f"Not made again: {made.name} lacks {', '.join(failed[:5])}{' and more' if len(failed) > 5 else ''}."
    if verdict == "tolerated":
        return f"Within tolerance: {count} of {made.name} were made again; {apart}."
    if verdict == "differs":
        wrong = [one.name for one in (*tiles, *products) if one.outcome == "differs"]
        told = apart if difference.pixels else "the recorded files are not here to count pixels"
        return f"Differs: of {made.name} {', '.join(wrong[:5])}{' and more' if len(wrong) > 5 else ''}; {told}."
    exact = all(one.outcome == "equal" for one in (*tiles, *products))
    what = f"{count} and {len(products)} files" if products else count
    return f"Equal: {what} of {made.name} came out {'bit for bit' if exact else 'pixel for pixel'} as recorded."


def differing(reproduction: Reproduction) -> Iterator[Compared]:
    """What did not come out as it was, tiles first."""
    for one in (*reproduction.tiles, *reproduction.products, *reproduction.model):
        if one.outcome in ("differs", "not made"):
            yield one
