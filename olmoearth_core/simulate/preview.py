"""One picture of the world for people: what the satellite saw, the truth, and the map, side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from olmoearth_core.simulate.accuracy import map_accuracy, read_on_world
from olmoearth_core.simulate.land import CLASSES
from olmoearth_core.simulate.look import clear_pixels, look, scene_dates
from olmoearth_core.simulate.world import World
from olmoearth_core.store import whole_file

_SUMMER = (6, 7, 8)
_PAPER, _INK = "#ffffff", "#1f2933"


def world_preview(world: World, map_path: Path, out_png: Path, *, baseline: float | None = None) -> None:
    """Write a PNG with imagery, truth and map side by side, the classes' colours and the map's accuracy.

    Args:
        world: the region.
        map_path: a map of it, band 1 class.
        out_png: where to.
        baseline: accuracy of the best single date, shown next to the map's.

    Raises:
        MappingError: the map cannot be read.
        StoreError: the disk is full.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    score = map_accuracy(map_path, world)
    colours = np.array([_rgb(c.color) for c in CLASSES] + [(255, 255, 255)] * (256 - len(CLASSES)), np.uint8)
    survey = world.read_labels() != 255
    truth = colours[world.read_truth()]
    panels = {
        "Sentinel-2, summer": summer_colours(world),
        "Truth (fields with labels outlined)": np.where(_rim(survey)[..., None], _rgb(_INK), truth).astype(np.uint8),
        f"Map: {score.overall:.1%} right": colours[read_on_world(map_path, world)],
    }
    figure = Figure(figsize=(15, 6.3), dpi=110, facecolor=_PAPER)
    margins = {"left": 0.005, "right": 0.995, "top": 0.9, "bottom": 0.08, "wspace": 0.02}
    for axes, (title, image) in zip(figure.subplots(1, 3, gridspec_kw=margins), panels.items(), strict=True):
        axes.imshow(image, interpolation="nearest")
        axes.set_title(title, fontsize=14, color=_INK, loc="left")
        axes.set_axis_off()
    _scale_bar(figure.axes[0], world)
    handles = [
        Patch(color=c.color, label=f"{c.name}  (IoU {score.iou[c.name]:.2f})" if c.name in score.iou else c.name)
        for c in CLASSES
    ]
    figure.legend(handles=handles, loc="lower center", ncols=len(CLASSES), frameon=False, fontsize=12)
    beside = "" if baseline is None else f"; a pixel classifier on the best single date: {baseline:.1%}"
    figure.suptitle(
        f"{score.n:,} pixels outside the labels: the map {score.overall:.1%} right{beside}",
        fontsize=13, color=_INK, x=0.005, y=0.985, ha="left",
    )  # fmt: skip
    with whole_file(out_png) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})


def summer_colours(world: World) -> np.ndarray:
    """True colour median of the clear summer pixels, (H, W, 3) uint8; grey where no summer date was clear."""
    stack = []
    for day in scene_dates(world):
        if day.month in _SUMMER:
            stack.append(np.where(clear_pixels(world, day), look(world, day, ("B04", "B03", "B02")), np.nan))
    frames = np.stack(stack)
    seen = ~np.isnan(frames).all(axis=(0, 1))
    image = np.full((*world.box.shape, 3), 0.5, np.float32)
    image[seen] = np.nanmedian(frames[:, :, seen], axis=0).T
    low, high = np.percentile(image[seen], (1, 99), axis=0)
    image[seen] = np.clip((image[seen] - low) / (high - low), 0, 1) ** 0.8
    stretched: np.ndarray = (image * 255).astype(np.uint8)
    return stretched


def _rim(mask: np.ndarray) -> np.ndarray:
    from scipy.ndimage import binary_erosion

    rim: np.ndarray = mask & ~binary_erosion(mask)
    return rim


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue


def _scale_bar(axes: object, world: World) -> None:
    """A kilometre in the lower left corner."""
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    length, bottom = 1000 / world.box.grid.resolution, world.box.height * 0.96
    axes.plot([world.box.width * 0.03, world.box.width * 0.03 + length], [bottom, bottom], color="white", linewidth=3)
    axes.text(world.box.width * 0.03, bottom - 5, "1 km", color="white", fontsize=11)
