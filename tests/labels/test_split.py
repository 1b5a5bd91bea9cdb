"""Splits in space: no pixel of the ground in two of them, every class in training."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olmoearth_core.grid import Grid
from olmoearth_core.labels.split import SPLITS, BlockTable, assign_splits, block_of, block_pixels
from olmoearth_core.project import SplitConfig

GRID = Grid("EPSG:32631", 10.0)

amounts_of_blocks = st.integers(1, 5).flatmap(
    lambda classes: st.dictionaries(
        st.tuples(st.integers(-40, 40), st.integers(-40, 40)),
        st.lists(st.integers(0, 5000), min_size=classes, max_size=classes).filter(any).map(np.array),
        min_size=1,
        max_size=60,
    )
)
configs = st.builds(
    SplitConfig,
    validation=st.sampled_from([0.0, 0.1, 0.2, 0.3]),
    test=st.sampled_from([0.0, 0.1, 0.2, 0.4]),
    seed=st.integers(0, 99),
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-300, 300), st.integers(-300, 300)), min_size=1, max_size=80),
    st.sampled_from([8, 16, 64]),
    st.floats(1, 3000),
    configs,
)
def test_no_pixel_of_the_ground_is_in_two_splits(
    cells: list[tuple[int, int]], window: int, block_size: float, config: SplitConfig
) -> None:
    config = config.model_copy(update={"block_size": block_size})
    size = block_pixels(config, window, GRID.resolution)
    assert size % window == 0
    assert size * GRID.resolution >= block_size - 1e-6
    # the same place on two dates: two windows of one box
    boxes = [GRID.box(i * window, j * window, window, window) for i, j in cells + cells]
    table = assign_splits({block_of(box, size): np.array([1]) for box in boxes}, config, size)
    owner: dict[tuple[int, int], str] = {}
    for box in boxes:
        split = table.split_of(box)
        for corner_column in (box.column, box.column + box.width - 1):
            for corner_row in (box.row, box.row + box.height - 1):
                assert owner.setdefault((corner_column, corner_row), split) == split
                assert table.splits[corner_column // size, corner_row // size] == split


@settings(max_examples=100, deadline=None)
@given(amounts_of_blocks, configs)
def test_every_class_is_in_training_and_shares_without_blocks_stay_empty(
    amounts: dict[tuple[int, int], np.ndarray], config: SplitConfig
) -> None:
    table = assign_splits(amounts, config, 64)
    assert table.splits.keys() == amounts.keys()
    assert set(table.splits.values()) <= set(SPLITS)
    total = np.sum(list(amounts.values()), axis=0)
    train = np.sum([counts for block, counts in amounts.items() if table.splits[block] == "train"], axis=0)
    assert (train[total > 0] > 0).all()
    for split, share in (("validation", config.validation), ("test", config.test)):
        if share == 0:
            assert split not in table.splits.values()


@settings(max_examples=30, deadline=None)
@given(amounts_of_blocks, configs, st.randoms())
def test_the_order_of_blocks_makes_no_difference(
    amounts: dict[tuple[int, int], np.ndarray], config: SplitConfig, random: object
) -> None:
    keys = list(amounts)
    random.shuffle(keys)  # type: ignore[attr-defined]
    assert assign_splits({key: amounts[key] for key in keys}, config, 64) == assign_splits(amounts, config, 64)


def test_a_class_in_three_blocks_is_in_every_split() -> None:
    amounts = {(i, 0): np.array([4096, 0]) for i in range(50)}
    amounts |= {(i, 0): np.array([4000, 96]) for i in (7, 21, 33)}
    for seed in range(20):
        table = assign_splits(amounts, SplitConfig(seed=seed), 64)
        assert {table.splits[i, 0] for i in (7, 21, 33)} == set(SPLITS)


def test_shares_of_each_class_come_close_to_what_is_asked() -> None:
    random = np.random.default_rng(0)
    amounts = {(i, j): random.integers(0, 4096, 3) * (random.random(3) < 0.6) for i in range(20) for j in range(10)}
    amounts = {block: counts for block, counts in amounts.items() if counts.any()}
    table = assign_splits(amounts, SplitConfig(validation=0.2, test=0.2), 64)
    total = np.sum(list(amounts.values()), axis=0)
    for split, share in zip(SPLITS, (0.6, 0.2, 0.2), strict=True):
        part = np.sum([counts for block, counts in amounts.items() if table.splits[block] == split], axis=0)
        assert part / total == pytest.approx(share, abs=0.03)


def test_the_seed_changes_the_split() -> None:
    amounts = {(i, j): np.array([100, 100]) for i in range(6) for j in range(6)}
    tables = [assign_splits(amounts, SplitConfig(seed=seed), 64) for seed in (0, 0, 1)]
    assert tables[0] == tables[1]
    assert tables[0] != tables[2]


def test_the_table_survives_json() -> None:
    table = assign_splits({(-1, 2): np.array([1]), (3, -4): np.array([2])}, SplitConfig(), 128)
    assert BlockTable.from_json(table.to_json()) == table


def test_a_box_across_blocks_is_refused() -> None:
    table = BlockTable(64, {(0, 0): "train", (1, 0): "test"})
    with pytest.raises(ValueError, match="more than one block"):
        table.split_of(GRID.box(32, 0, 64, 64))
