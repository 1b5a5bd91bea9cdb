"""The map as a picture for a report: legend with areas, scale bar, north arrow, title."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from matplotlib import colormaps, rc_context, rcParamsDefault
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from rasterio.coords import BoundingBox
from rasterio.enums import Resampling
from rasterio.warp import reproject, transform_bounds
from rasterio.warp import transform as transform_points

from olmoearth_core.postprocess.areas import ClassArea
from olmoearth_core.store import write_bytes

MAX_PIXELS = 1600
"""Longest edge of the map in the picture."""
LEGEND_ROWS = 10
LEGEND_STEP = 0.42
"""Inches from one row of the legend to the next."""
RAMP = "viridis"
"""Colours of values: even in lightness, and told apart by those who do not see red and green."""
INK, PAPER, VOID = "#222222", "#ffffff", "#f0f0f0"


def write_preview(
    path: Path,
    maps: Sequence[Path],
    *,
    title: str,
    subtitle: str,
    footer: str,
    colours: Sequence[str],
    areas: Sequence[ClassArea],
) -> None:
    """Draw a map (classes in band 1) to a PNG; equal maps give equal bytes.

    Args:
        path: the PNG.
        maps: the map, one file a zone; several are drawn in an equal-area projection around their middle.
        title: what is mapped.
        subtitle: when.
        footer: which map this is.
        colours: "#rrggbb" of each class.
        areas: of each class, for the legend.
    """
    classes, bounds, factor = _read(maps)
    palette = np.array([to_rgb(VOID)] * 256)
    palette[: len(colours)] = [to_rgb(colour) for colour in colours]
    rows = _legend_rows(areas, colours, bool((classes >= len(colours)).any()))
    _draw(path, palette[classes], bounds, factor, rows, (title, subtitle, footer))


def write_value_preview(
    path: Path, maps: Sequence[Path], *, title: str, subtitle: str, footer: str, unit: str, limits: tuple[float, float]
) -> None:
    """Draw a map of values to a PNG, as `write_preview` draws classes.

    Args:
        path: the PNG.
        maps: the map, one file a zone, with scale and offset.
        title: what is mapped.
        subtitle: when.
        footer: which map this is.
        unit: of the values.
        limits: the values with the first and the last colour; beyond them the colours stay.
    """
    stored, bounds, factor = _read(maps)
    with rasterio.open(maps[0]) as source:
        scale, offset, nodata = source.scales[0], source.offsets[0], source.nodata
    low, high = limits
    share = np.clip((stored * scale + offset - low) / (high - low), 0, 1)
    picture = colormaps[RAMP](share)[..., :3]
    picture[stored == nodata] = to_rgb(VOID)
    steps = np.linspace(1, 0, 6)
    rows = [(to_hex(colormaps[RAMP](step)), f"{low + step * (high - low):.3g} {unit}".strip(), "") for step in steps]
    if (stored == nodata).any():
        rows.append((VOID, "not mapped", "outside, or never clear"))
    _draw(path, picture, bounds, factor, rows, (title, subtitle, footer))


def _read(maps: Sequence[Path]) -> tuple[np.ndarray, BoundingBox, int]:
    """(the first band, its bounds, by how much it is thinned out)."""
    if len(maps) > 1:
        return _read_zones(maps)
    with rasterio.open(maps[0]) as source:
        factor = max(1, math.ceil(max(source.shape) / MAX_PIXELS))
        return _thinned(source, factor)[0], source.bounds, factor


def _read_zones(maps: Sequence[Path]) -> tuple[np.ndarray, BoundingBox, int]:
    """The same of several zones, on a grid in metres around the middle of all."""
    with ExitStack() as files:
        sources = [files.enter_context(rasterio.open(path)) for path in maps]
        middle = sources[len(sources) // 2]
        left, bottom, right, top = _around(sources, middle.crs)
        (longitude,), (latitude,) = transform_points(
            middle.crs, "EPSG:4326", [(left + right) / 2], [(bottom + top) / 2]
        )
        crs = f"+proj=laea +lat_0={latitude:.4f} +lon_0={longitude:.4f} +datum=WGS84 +units=m"
        left, bottom, right, top = _around(sources, crs)
        size = max(sources[0].transform.a, (right - left) / MAX_PIXELS, (top - bottom) / MAX_PIXELS)
        factor = max(1, round(size / sources[0].transform.a))
        shape = math.ceil((top - bottom) / size), math.ceil((right - left) / size)
        sheet = np.full(shape, sources[0].nodata, sources[0].dtypes[0])
        owner = np.zeros(shape, np.uint8)
        placed = rasterio.Affine(size, 0, left, 0, -size, top)
        for number, source in enumerate(sources, 1):
            stored, thinned = _thinned(source, factor)
            here = np.full_like(sheet, source.nodata)
            where = {"src_transform": thinned, "src_crs": source.crs, "dst_transform": placed, "dst_crs": crs}
            reproject(stored, here, **where, src_nodata=source.nodata, dst_nodata=source.nodata)
            shown = here != source.nodata
            sheet[shown], owner[shown] = here[shown], number
    west, east = (
        owner[:, :-2],
        owner[:, 2:],
    )  # where zones meet a pixel of the sheet may be nobody's
    rows, columns = np.nonzero((owner[:, 1:-1] == 0) & (west > 0) & (east > 0) & (west != east))
    sheet[rows, columns + 1] = sheet[rows, columns]
    return sheet, BoundingBox(left, top - shape[0] * size, left + shape[1] * size, top), factor


def _around(sources: Sequence[rasterio.DatasetReader], crs: Any) -> tuple[float, float, float, float]:
    """(left, bottom, right, top) of what holds some rasters in `crs`."""
    edges = np.array([transform_bounds(source.crs, crs, *source.bounds, densify_pts=21) for source in sources])
    low, high = edges[:, :2].min(axis=0), edges[:, 2:].max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _thinned(source: rasterio.DatasetReader, factor: int) -> tuple[np.ndarray, rasterio.Affine]:
    """The first band with a pixel in `factor`, and where its pixels lie."""
    shape = (math.ceil(source.height / factor), math.ceil(source.width / factor))
    pixels: np.ndarray = source.read(1, out_shape=shape, resampling=Resampling.nearest)
    scale = rasterio.Affine.scale(source.width / shape[1], source.height / shape[0])
    return pixels, source.transform @ scale


def _draw(
    path: Path,
    picture: np.ndarray,
    bounds: BoundingBox,
    factor: int,
    rows: Sequence[tuple[str, str, str]],
    texts: tuple[str, str, str],
) -> None:
    """The sheet: title, subtitle and footer (`texts`), the picture (H, W, RGB), legend, north arrow, scale bar."""
    title, subtitle, footer = texts
    with rc_context(rcParamsDefault):  # a person's own matplotlib settings must not change the bytes
        figure, axes = _page((bounds.top - bounds.bottom) / (bounds.right - bounds.left), len(rows))
        axes.imshow(
            picture,
            extent=(bounds.left, bounds.right, bounds.bottom, bounds.top),
            interpolation="nearest" if factor == 1 else "antialiased",
        )
        height = figure.get_figheight()
        figure.text(0.04, 1 - 0.2 / height, title, fontsize=15, fontweight="bold", color=INK, va="top")
        figure.text(0.04, 1 - 0.54 / height, subtitle, fontsize=9.5, color=INK, va="top")
        figure.text(0.04, 0.15 / height, footer, fontsize=6.5, color="#777777", va="bottom")
        _legend(figure, rows)
        _north(figure)
        _scale_bar(figure, axes, bounds.left, bounds.right)
        content = io.BytesIO()
        FigureCanvasAgg(figure).print_png(content, metadata={"Software": None})
    write_bytes(path, content.getvalue())


def _page(aspect: float, legend_rows: int) -> tuple[Figure, Axes]:
    """A sheet 8 inches wide, and as high as the map (up to 1.4 of its width) or the legend need."""
    map_width = 5.6
    map_height = map_width * min(1.4, aspect)
    sheet = (8.0, max(map_height + 1.7, 1.8 + LEGEND_STEP * legend_rows))
    figure = Figure(figsize=sheet, dpi=150, facecolor=PAPER)
    bottom = 1 - (0.85 + map_height) / sheet[1]
    axes = figure.add_axes((0.04, bottom, map_width / sheet[0], map_height / sheet[1]))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_anchor("NW")
    for spine in axes.spines.values():
        spine.set_color(INK)
        spine.set_linewidth(0.8)
    return figure, axes


def _legend_rows(areas: Sequence[ClassArea], colours: Sequence[str], void: bool) -> list[tuple[str, str, str]]:
    """(colour, name, amount) of each class in the order of the map's values; the largest ten where there are more."""
    shown = sorted(sorted(areas, key=lambda a: -a.pixels)[:LEGEND_ROWS], key=lambda a: a.value)
    rows = [(colours[a.value], a.name, f"{_number(a.hectares)} ha, {100 * a.share:.1f} %") for a in shown]
    if len(areas) > len(shown):
        rows.append((PAPER, f"and {len(areas) - len(shown)} more classes", "see areas.csv"))
    if void:
        rows.append((VOID, "not mapped", "outside, or never clear"))
    return rows


def _legend(figure: Figure, rows: Sequence[tuple[str, str, str]]) -> None:
    """Right of the map: a swatch, a name and an amount for each row."""
    width, height = figure.get_size_inches()
    left = 5.95 / width
    for i, (colour, name, amount) in enumerate(rows):
        y = 1 - (1.6 + LEGEND_STEP * i) / height
        swatch = Rectangle(
            (left, y - 0.26 / height), 0.3 / width, 0.24 / height, facecolor=colour, edgecolor=INK, linewidth=0.5
        )
        figure.add_artist(swatch)
        figure.text(left + 0.4 / width, y - 0.05 / height, _short(name), fontsize=9, color=INK, va="center")
        figure.text(left + 0.4 / width, y - 0.22 / height, amount, fontsize=7, color="#666666", va="center")


def _north(figure: Figure) -> None:
    """A needle above the legend; up is grid north."""
    width, height = figure.get_size_inches()
    x, y = 6.1 / width, 1 - 1.35 / height
    half, tall = 0.09 / width, 0.36 / height
    for side, colour in ((-half, INK), (half, PAPER)):
        corners = [(x, y + tall), (x + side, y), (x, y + 0.08 / height)]
        figure.add_artist(Polygon(corners, closed=True, facecolor=colour, edgecolor=INK, linewidth=0.7))
    figure.text(x, y + tall + 0.03 / height, "N", fontsize=9, fontweight="bold", color=INK, ha="center", va="bottom")


def _scale_bar(figure: Figure, axes: Axes, left: float, right: float) -> None:
    """Below the map: two fields, together about a quarter of its width, a round number of metres long."""
    goal = (right - left) / 4
    power = 10.0 ** math.floor(math.log10(goal))
    length = max(step for step in (power, 2 * power, 5 * power) if step <= goal)
    below = axes.get_xaxis_transform()  # x in metres, y in heights of the map
    inch = 1 / (axes.get_position().height * figure.get_size_inches()[1])
    for start, colour in ((left, INK), (left + length / 2, PAPER)):
        bar = Rectangle(
            (start, -0.2 * inch),
            length / 2,
            0.07 * inch,
            transform=below,
            facecolor=colour,
            edgecolor=INK,
            linewidth=0.7,
            clip_on=False,
        )
        axes.add_patch(bar)
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    for x, label in ((left, "0"), (left + length, text)):
        axes.text(
            x,
            -0.23 * inch,
            label,
            transform=below,
            fontsize=8,
            color=INK,
            ha="left" if x == left else "center",
            va="top",
        )


def _number(hectares: float) -> str:
    """1,234,567 or 123 or 4.56: three digits that count."""
    return f"{hectares:,.0f}" if hectares >= 100 else f"{hectares:.3g}"


def _short(name: str, most: int = 20) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
