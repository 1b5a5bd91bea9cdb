from __future__ import annotations

import numpy as np
from test_batching import BOX, LAYOUT, WINDOWS, all_valid, imagery

from olmoearth_core.inference.batching import assemble
from olmoearth_core.inference.blend import NODATA
from olmoearth_core.inference.imagery import strips
from olmoearth_core.inference.plan import Plan, PlannedModel, Tile
from olmoearth_core.inference.tile import TileWork

MODEL = PlannedModel(weights_sha256="0" * 64, classes=["a", "b"])
TILE = Tile(name="t", crs="EPSG:32631", column=BOX.column, row=BOX.row, width=BOX.width, height=BOX.height, windows=8)


def plan(sizes: list[int]) -> Plan:
    return Plan(
        zones=[BOX.grid.crs],
        resolution=10.0,
        anchor="2024-01-01",  # type: ignore[arg-type]
        timesteps=[("2024-01-01", "2024-02-01"), ("2024-02-01", "2024-03-01")],  # type: ignore[list-item]
        model=MODEL,
        layout=LAYOUT,
        batch_sizes=sizes,
        precision="fp32",
        device="cpu",
        threads=1,
        windows=8,
        tiles=[TILE],
    )


def test_a_tile_holds_nodata_outside_the_area_and_where_nothing_was_seen() -> None:
    valid = all_valid()
    valid[:, :, 20:24] = False  # never seen
    valid[0, :, 40:44] = False  # seen once
    area = np.ones(BOX.shape, bool)
    area[:5] = False
    shapes: list[tuple[int, ...]] = []

    def predict(inputs: dict, dates: np.ndarray, masks: dict) -> np.ndarray:
        rows = inputs["sentinel2_l2a"].shape[0]
        assert dates.shape == (rows, 2)
        assert masks["sentinel2_l2a"].shape == (rows, 2, 16, 16)
        shapes.append(inputs["sentinel2_l2a"].shape)
        west = (inputs["sentinel2_l2a"].max(axis=1) < 32).astype(np.float32)  # (B, 1, H, W)
        return np.concatenate([west * 0.8 + 0.1, 0.9 - west * 0.8], axis=1)

    work = TileWork(TILE, plan([2, 3]), WINDOWS, imagery(valid))
    for strip in strips(BOX, 16):
        for batch in work.batches(strip):
            work.blend(batch, predict(*assemble(batch, work.imagery)))
        assert work.is_last(strip) == (strip.row + strip.height == BOX.row + BOX.height)
    mapped = work.mapped(area)
    expected = np.where(np.arange(64) < 32, 0, 1) * np.ones((32, 1), int)
    known = area & valid.any(axis=0)
    assert np.array_equal(mapped.classes[known], expected[known])
    assert (mapped.classes[~known] == NODATA).all()
    assert (mapped.probabilities[:, ~known] == NODATA).all()
    assert set(np.unique(mapped.probabilities[:, known])) == {25, 225}
    assert mapped.area_pixels == area.sum()
    assert mapped.windows_seen == 8
    assert {shape[0] for shape in shapes} == {3}
    assert mapped.observations is not None
    assert np.array_equal(mapped.observations[area], valid.sum(axis=0)[area])
    assert (mapped.observations[~area] == NODATA).all()


def test_batches_come_as_soon_as_their_imagery_is_there() -> None:
    work = TileWork(TILE, plan([1, 1]), WINDOWS, imagery(all_valid()))
    counts = [len(list(work.batches(strip))) for strip in strips(BOX, 16)]
    assert counts == [4, 4]
