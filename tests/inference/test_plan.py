from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rasters import CRS
from shapely.geometry import MultiPoint, box
from smallmap import metres

from olmoearth_core.errors import MappingError
from olmoearth_core.grid import Grid, PixelBox, window_stride
from olmoearth_core.inference.area import Area
from olmoearth_core.inference.plan import (
    MAX_BATCH,
    TOKENS,
    Layout,
    Plan,
    PlannedModel,
    batch_sizes,
    map_layout,
    plan_tiles,
    read_plan,
    tile_windows,
    write_plan,
)

GRID = Grid(CRS, 10.0)


def plan_of(area: Area, layout: Layout) -> Plan:
    tiles, windows = plan_tiles([area], layout)
    return Plan(
        zones=[CRS],
        resolution=10.0,
        anchor=date(2024, 5, 1),
        timesteps=[(date(2024, 5, 1), date(2024, 5, 31))],
        model=PlannedModel(weights_sha256="0" * 64, classes=["a", "b"]),
        layout=layout,
        batch_sizes=[1],
        precision="fp32",
        windows=windows,
        tiles=tiles,
    )


corner = st.tuples(st.floats(0, 150), st.floats(0, 150))
polygon = st.lists(corner, min_size=3, max_size=6).map(lambda ps: MultiPoint([metres(*p) for p in ps]).convex_hull)
layouts = st.builds(
    lambda tile, patches, patch, overlap: map_layout(tile, patches * patch, patch, overlap),
    st.sampled_from([64, 100, 256]),
    st.sampled_from([2, 4, 5]),
    st.sampled_from([4, 8]),
    st.floats(0, 0.75),
)


@settings(deadline=None, max_examples=40)
@given(shapes=st.lists(polygon, min_size=1, max_size=3), layout=layouts)
def test_tiles_own_each_pixel_once_and_windows_depend_on_no_tile(shapes: list, layout: Layout) -> None:
    parts = tuple(p for p in shapely.get_parts(shapely.union_all(shapes)) if p.geom_type == "Polygon" and p.area > 400)
    if not parts:
        return
    area = Area(GRID, parts, box(0, 0, 1, 1))
    assume(min(area.bounds.shape) > 0)  # `load_areas` refuses a sliver between the centres of two columns
    plan = plan_of(area, layout)
    around = area.bounds.pad(layout.window_size)
    mask = area.mask(around)

    owners = np.zeros(around.shape, int)
    found: set[PixelBox] = set()
    for tile in plan.tiles:
        tile_box = plan.box(tile)
        assert max(tile_box.shape) <= layout.tile_size
        assert tile_box.cut(area.bounds) == tile_box
        owners[tile_box.slices_in(around)] += 1
        windows = tile_windows(area, tile_box, layout)
        assert len(windows) == tile.windows > 0
        found |= set(windows)
        # every window of the lattice over a pixel of the area is there: so a pixel is blended alike in any tile
        here = area.mask(tile_box)
        expected = {w for w in layout.lattice.boxes(tile_box) if here[w.cut(tile_box).slices_in(tile_box)].any()}
        assert expected <= set(windows)
        assert expected == {w for w in windows if here[w.cut(tile_box).slices_in(tile_box)].any()}
    assert (owners[mask] == 1).all()
    assert owners.max() <= 1
    assert plan.windows == len(found)
    assert plan.windows <= sum(tile.windows for tile in plan.tiles)
    assert len({tile.name for tile in plan.tiles}) == len(plan.tiles)


@given(st.integers(1, 8), st.integers(1, 64), st.floats(0, 0.75))
def test_the_stride_is_whole_patches_and_blending_cannot_overflow(patch: int, patches: int, overlap: float) -> None:
    window = patch * patches
    stride = window_stride(window, patch, overlap)
    assert stride % patch == 0
    assert patch <= stride <= window
    lattice = map_layout(64, window, patch, overlap).lattice
    over = [lattice.last(pixel) - lattice.first(pixel) + 1 for pixel in range(2 * stride)]
    assert 1 <= min(over) <= max(over) <= 5  # what blend.py's sums are sized for
    assert abs(stride - window * (1 - overlap)) <= patch / 2 or stride == patch


def test_no_overlap_lays_windows_side_by_side() -> None:
    assert window_stride(64, 4, 0.0) == 64
    assert window_stride(64, 4, 0.5) == 32


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_batches_hold_about_as_many_tokens_whatever_the_sequence(device: str) -> None:
    sizes = batch_sizes(12, 64, 4, device)
    assert sizes == sorted(sizes, reverse=True)
    assert all(1 <= size <= MAX_BATCH for size in sizes)
    assert sizes[11] == 1 or sizes[11] * 12 * 16 * 16 <= TOKENS[device]


def test_a_plan_reads_back_and_its_bytes_repeat(tmp_path: Path) -> None:
    area = Area(GRID, (box(500100, 4689000, 501400, 4690000),), box(0, 0, 1, 1))
    plan = plan_of(area, Layout(tile_size=64, window_size=16, patch_size=4, stride=8))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_plan(plan, tmp_path / name)
    assert read_plan(tmp_path / "a") == plan
    assert (tmp_path / "a/plan.json").read_bytes() == (tmp_path / "b/plan.json").read_bytes()
    assert plan.bounds(CRS) == area.bounds


def test_a_plan_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match=r"plan\.json.*olmoearth infer"):
        read_plan(tmp_path)
    (tmp_path / "plan.json").write_text(json.dumps({"tiles": []}))
    with pytest.raises(MappingError, match="not a plan"):
        read_plan(tmp_path)
