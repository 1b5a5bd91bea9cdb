"""Windows become batches: each once, turned as one, and nothing that cannot be learned from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from training_set import only, shore_sample, unlabelled

from olmoearth_core.dataset.cubes import Sample
from olmoearth_core.labels.windows import IGNORE
from olmoearth_core.training import augment
from olmoearth_core.training.augment import VIEWS, view
from olmoearth_core.training.data import Windows, gather


def _blind(sample: Sample) -> Sample:
    return Sample(sample.inputs, {m: np.zeros_like(v) for m, v in sample.valid.items()}, sample.dates, sample.truths)


def _shore(rows: Sequence[int]) -> list[Sample]:
    return [shore_sample(row) for row in rows]


def _windows(count: int, memory: int = 2**30) -> Windows:
    return gather(_shore, {"train": range(count)}, 2, at_once=4, memory=memory)["train"]


def test_every_window_comes_once_in_an_order_that_the_seed_alone_decides() -> None:
    windows = _windows(10)

    def order(seed: int) -> list[int]:
        batches = list(windows.shuffled(4, (seed, 0), augment=True))
        assert [len(b.target) for b in batches] == [4, 4, 2]
        return [int(row) for b in batches for row in b.rows]

    assert sorted(order(0)) == list(range(10))
    assert order(0) == order(0)
    assert order(0) != order(1)


def test_a_window_is_turned_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "GAIN", 0.0)
    monkeypatch.setattr(augment, "DROP", 0.0)
    first = next(_windows(8).shuffled(8, (3, 1), augment=True))
    turned = 0
    for i, row in enumerate(first.rows):
        sample = shore_sample(int(row))
        matching = [
            v
            for v in range(VIEWS)
            if np.array_equal(first.target[i], view(sample.target, v))
            and np.array_equal(first.inputs["sentinel2_l2a"][i], view(sample.inputs["sentinel2_l2a"], v))
        ]
        assert matching
        turned += matching[0] > 0
    assert turned


def test_brightness_is_of_a_band_in_a_timestep_and_nodata_stays() -> None:
    cube = np.full((64, 2, 4, 8, 8), 5000, np.uint16)
    cube[:, :, :, 0] = 0
    cube[:, :, :, 1] = 1
    cube[:, :, :, 2] = 65535
    shown = augment.brighten(cube, np.random.default_rng(0))
    assert shown.dtype == cube.dtype
    assert (shown[:, :, :, 0] == 0).all()
    assert (shown[:, :, :, 1] == 1).all()
    assert (shown[:, :, :, 2] >= 50_000).all()  # no overflow
    assert (shown[..., 3:, :] == shown[..., 3:4, :1]).all()  # the same for the whole window
    gains = shown[..., 3, 0] / 5000 - 1
    assert 0.9 * augment.GAIN < gains.std() < 1.1 * augment.GAIN
    assert 0.5 < gains.mean(axis=2).std() / gains.std() < 0.9  # a share of it is common to all bands


def test_timesteps_are_hidden_but_no_labelled_pixel() -> None:
    random = np.random.default_rng(0)
    valid = random.random((200, 3, 4, 4)) < 0.5
    labelled = valid.any(axis=1) & (random.random((200, 4, 4)) < 0.3)
    given = {"a": valid, "b": np.zeros_like(valid)}
    kept = augment.hide_timesteps(given, labelled, random)
    hidden = (valid & ~kept["a"]).any(axis=(2, 3))
    assert 0.02 < hidden.mean() < 0.12
    assert (kept["a"] == valid & ~hidden[:, :, None, None]).all()
    assert kept["a"].any(axis=1)[labelled].all()
    all_labelled = augment.hide_timesteps(given, valid.any(axis=1), random)["a"]
    assert (all_labelled.any(axis=1) == valid.any(axis=1)).all()


def test_without_augmentation_batches_are_as_on_disk() -> None:
    for batch in _windows(6).shuffled(4, (0, 0), augment=False):
        for i, row in enumerate(batch.rows):
            assert np.array_equal(batch.inputs["sentinel2_l2a"][i], shore_sample(int(row)).inputs["sentinel2_l2a"])
            assert batch.valid["sentinel2_l2a"][i].all()


def test_the_eight_views_differ() -> None:
    corner = np.arange(9).reshape(3, 3)
    assert len({view(corner, v).tobytes() for v in range(VIEWS)}) == VIEWS


def test_windows_without_anything_to_learn_are_left_out() -> None:
    samples = [shore_sample(0), unlabelled(shore_sample(1)), _blind(shore_sample(2)), only(shore_sample(3), 1)]
    windows = gather(lambda rows: [samples[row] for row in rows], {"train": range(4)}, 2, at_once=3)["train"]
    assert windows.rows.tolist() == [0, 3]
    assert windows.left_out == 2
    assert windows.pixels[1, 0] == 0
    assert windows.pixels[1, 1] == (samples[3].target == 1).sum()


def test_a_label_that_no_timestep_shows_is_ignored() -> None:
    sample = shore_sample(0)
    sample.valid["sentinel2_l2a"][:, :8] = False
    sample.valid["sentinel2_l2a"][1, 0, 0] = True
    batch = next(gather(lambda _rows: [sample], {"train": [0]}, 2, at_once=1)["train"].in_order(1))
    assert batch.target[0, 0, 0] == sample.target[0, 0]
    assert (batch.target[0, :8].ravel()[1:] == IGNORE).all()
    assert np.array_equal(batch.target[0, 8:], sample.target[8:])


@pytest.mark.parametrize("memory", [0, 5000])
def test_batches_do_not_depend_on_what_fits_in_memory(memory: int) -> None:
    pairs = zip(_windows(6, memory).in_order(4), _windows(6).in_order(4), strict=True)
    for read, kept in pairs:
        assert np.array_equal(read.inputs["sentinel2_l2a"], kept.inputs["sentinel2_l2a"])


def test_an_unreadable_window_stops_the_batches() -> None:
    windows = _windows(4, memory=0)

    def broken(rows: Sequence[int]) -> list[Sample]:
        raise OSError(f"row {rows[0]}")

    with pytest.raises(OSError, match="row 0"):
        list(Windows(broken, windows.rows, windows.pixels, 0, 0).in_order(2))


def test_no_windows_give_no_batches() -> None:
    assert list(gather(_shore, {"test": []}, 2, at_once=1)["test"].in_order(4)) == []
