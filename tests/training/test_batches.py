"""Windows become batches: each once, turned as one, and nothing that cannot be learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from training_set import only, shore_sample, unlabelled

from olmoearth_core.dataset.cubes import Sample, TaskLayout, Truth
from olmoearth_core.labels.windows import IGNORE
from olmoearth_core.models.card import TaskCard
from olmoearth_core.project import AugmentConfig
from olmoearth_core.training import augment
from olmoearth_core.training.augment import VIEWS, view
from olmoearth_core.training.baselines import Forest
from olmoearth_core.training.data import Batch, Order, Windows, gather

MAIN = {"main": TaskCard(classes=["land", "water"])}
TURNS = AugmentConfig(brightness=0, timestep_drop=0)


def _blind(sample: Sample) -> Sample:
    return Sample(sample.inputs, {m: np.zeros_like(v) for m, v in sample.valid.items()}, sample.dates, sample.truths)


def _shore(rows: Sequence[int]) -> list[Sample]:
    return [shore_sample(row) for row in rows]


def _windows(count: int, memory: int = 2**30) -> Windows:
    return gather(_shore, {"train": range(count)}, MAIN, {"main": 2}, at_once=4, memory=memory)["train"]


def _epoch(windows: Windows, batch_size: int, seed: int, augment: AugmentConfig, **share: int) -> list[Batch | None]:
    return list(windows.shuffled(Order(batch_size, seed, 0, augment, **share)))


def test_every_window_comes_once_in_an_order_that_the_seed_alone_decides() -> None:
    windows = _windows(10)

    def order(seed: int) -> list[int]:
        batches = [b for b in _epoch(windows, 4, seed, AugmentConfig()) if b is not None]
        assert [len(b) for b in batches] == [4, 4, 2]
        return [int(row) for b in batches for row in b.rows]

    assert sorted(order(0)) == list(range(10))
    assert order(0) == order(0)
    assert order(0) != order(1)


def test_a_window_is_turned_as_one() -> None:
    (first,) = _epoch(_windows(8), 8, 3, TURNS)
    assert first is not None
    turned = 0
    for i, row in enumerate(first.rows):
        sample = shore_sample(int(row))
        matching = [
            v
            for v in range(VIEWS)
            if np.array_equal(first.truths["main"].strata[i], view(sample.target, v))
            and np.array_equal(first.inputs["sentinel2_l2a"][i], view(sample.inputs["sentinel2_l2a"], v))
        ]
        assert matching
        turned += matching[0] > 0
    assert turned


def test_brightness_is_of_a_band_in_a_timestep_and_nodata_stays() -> None:
    cube = np.full((2, 4, 8, 8), 5000, np.uint16)
    cube[:, :, 0] = 0
    cube[:, :, 1] = 1
    cube[:, :, 2] = 65535
    config = AugmentConfig()
    shown = np.stack([augment.brighten(cube, config, np.random.default_rng(seed)) for seed in range(64)])
    assert shown.dtype == cube.dtype
    assert (shown[:, :, :, 0] == 0).all()
    assert (shown[:, :, :, 1] == 1).all()
    assert (shown[:, :, :, 2] >= 50_000).all()  # no overflow
    assert (shown[..., 3:, :] == shown[..., 3:4, :1]).all()  # the same for the whole window
    gains = shown[..., 3, 0] / 5000 - 1
    assert 0.85 * config.brightness < gains.std() < 1.15 * config.brightness
    assert 0.5 < gains.mean(axis=2).std() / gains.std() < 0.9  # a share of it is common to all bands


def test_noise_is_of_each_pixel_and_radar_is_changed_in_decibels() -> None:
    config = AugmentConfig(brightness=0, noise=0.01)
    optical = augment.brighten(np.full((1, 1, 64, 64), 5000, np.uint16), config, np.random.default_rng(0))
    assert 0.9 < optical.std() / 50 < 1.1
    radar = np.full((1, 1, 64, 64), -12, np.float32)
    radar[0, 0, 0] = 0
    shown = augment.brighten(radar, config, np.random.default_rng(0))
    assert shown.dtype == np.float32
    assert (shown[0, 0, 0] == 0).all()
    assert 0.9 < shown[0, 0, 1:].std() / (0.01 * augment.DECIBELS) < 1.1


def test_timesteps_are_hidden_but_no_labelled_pixel() -> None:
    random = np.random.default_rng(0)
    valid = random.random((200, 3, 4, 4)) < 0.5
    labelled = valid.any(axis=1) & (random.random((200, 4, 4)) < 0.3)

    def hidden(config: AugmentConfig, seen: np.ndarray) -> np.ndarray:
        kept = [
            augment.hide({"a": v, "b": np.zeros_like(v)}, w, config, random)["a"]
            for v, w in zip(valid, seen, strict=True)
        ]
        assert np.stack(kept).any(axis=1)[seen].all()
        gone = (valid & ~np.stack(kept)).any(axis=(2, 3))
        assert (np.stack(kept) == valid & ~gone[:, :, None, None]).all()
        return gone

    assert 0.01 < hidden(AugmentConfig(), labelled).mean() < 0.12
    assert 0.2 < hidden(AugmentConfig(timestep_drop=0.5), np.zeros_like(labelled)).mean() < 0.6
    assert not hidden(AugmentConfig(timestep_drop=0.9), valid.any(axis=1)).all(axis=1).any()


def test_a_modality_is_hidden_but_never_the_last() -> None:
    random, config = np.random.default_rng(0), AugmentConfig(timestep_drop=0, modality_drop=0.9)
    valid = {name: np.ones((2, 4, 4), bool) for name in "abc"}
    kept = [augment.hide(valid, np.ones((4, 4), bool), config, random) for _ in range(50)]
    left = [sum(mask.any() for mask in masks.values()) for masks in kept]
    assert min(left) == 1
    assert max(left) > 1


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_a_step_and_see_what_one_process_sees(processes: int) -> None:
    alone = _epoch(_windows(7), 4, 0, AugmentConfig())
    shares = [_epoch(_windows(7), 4, 0, AugmentConfig(), rank=r, processes=processes) for r in range(processes)]
    for step, whole in enumerate(alone):
        assert whole is not None
        parts = [share[step] for share in shares]
        rows = [int(row) for part in parts if part is not None for row in part.rows]
        assert sorted(rows) == sorted(whole.rows.tolist())
        for part in (part for part in parts if part is not None):
            for k, row in enumerate(part.rows):
                place = whole.rows.tolist().index(row)
                assert np.array_equal(part.inputs["sentinel2_l2a"][k], whole.inputs["sentinel2_l2a"][place])
                assert part.seeds is not None
                assert whole.seeds is not None
                assert part.seeds[k] == whole.seeds[place]


def test_a_window_of_a_classification_has_one_class() -> None:
    task = {"main": TaskCard(kind="classification", classes=["land", "water"])}
    found = gather(
        lambda rows: [only(shore_sample(r), r % 2) for r in rows], {"train": range(6)}, task, {"main": 2}, at_once=2
    )
    (batch,) = _epoch(found["train"], 8, 0, AugmentConfig())
    assert batch is not None
    assert batch.truths["main"].strata.shape == (6, 1, 1)
    assert batch.truths["main"].strata.ravel().tolist() == (batch.rows % 2).tolist()
    assert found["train"].pixels.sum(axis=0).tolist() == [3, 3]


def test_without_augmentation_batches_are_as_on_disk() -> None:
    for batch in _epoch(_windows(6), 4, 0, AugmentConfig.none()):
        assert batch is not None
        for i, row in enumerate(batch.rows):
            assert np.array_equal(batch.inputs["sentinel2_l2a"][i], shore_sample(int(row)).inputs["sentinel2_l2a"])
            assert batch.valid["sentinel2_l2a"][i].all()


def test_the_eight_views_differ() -> None:
    corner = np.arange(9).reshape(3, 3)
    assert len({view(corner, v).tobytes() for v in range(VIEWS)}) == VIEWS


def test_windows_without_anything_to_learn_are_left_out() -> None:
    samples = [shore_sample(0), unlabelled(shore_sample(1)), _blind(shore_sample(2)), only(shore_sample(3), 1)]
    windows = gather(lambda rows: [samples[row] for row in rows], {"train": range(4)}, MAIN, {"main": 2}, at_once=3)[
        "train"
    ]
    assert windows.rows.tolist() == [0, 3]
    assert windows.left_out == 2
    assert windows.pixels[1, 0] == 0
    assert windows.pixels[1, 1] == (samples[3].target == 1).sum()


def test_a_label_that_no_timestep_shows_is_ignored() -> None:
    sample = shore_sample(0)
    sample.valid["sentinel2_l2a"][:, :8] = False
    sample.valid["sentinel2_l2a"][1, 0, 0] = True
    batch = next(gather(lambda _rows: [sample], {"train": [0]}, MAIN, {"main": 2}, at_once=1)["train"].in_order(1))
    target = batch.truths["main"].strata[0]
    assert target[0, 0] == sample.target[0, 0]
    assert (target[:8].ravel()[1:] == IGNORE).all()
    assert np.array_equal(target[8:], sample.target[8:])


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
        list(Windows(broken, MAIN, windows.rows, windows.counts, 0, 0).in_order(2))


def test_no_windows_give_no_batches() -> None:
    assert list(gather(_shore, {"test": []}, MAIN, {"main": 2}, at_once=1)["test"].in_order(4)) == []


def test_a_window_of_a_classification_is_never_blank() -> None:
    config = AugmentConfig(timestep_drop=0.9)
    task = {"main": TaskCard(kind="classification", classes=["land", "water"])}

    def read(rows: Sequence[int]) -> list[Sample]:
        return [only(shore_sample(row), row % 2) for row in rows]

    found = gather(read, {"train": range(64)}, task, {"main": 2}, at_once=8)
    for batch in _epoch(found["train"], 64, 0, config):
        assert batch is not None
        assert batch.valid["sentinel2_l2a"].any(axis=(1, 2, 3)).all()


def test_model_and_forest_are_asked_for_the_same_class_of_a_window() -> None:
    """Where labels of a window disagree the commonest counts, for whoever learns and whoever is judged."""
    strata = np.full((4, 4), IGNORE, np.uint8)
    strata[0, 0], strata[1:3, 1:3] = 1, 0
    sample = shore_sample(3)
    sample = replace(sample, truths={"main": Truth(np.kron(strata, np.ones((4, 4), np.uint8)))})
    layout = TaskLayout("classification", ("land", "water"))
    task = TaskCard(kind="classification", classes=["land", "water"])
    windows = Windows(lambda rows: [sample] * len(rows), {"main": task}, np.arange(2), {}, 0, 0)
    learned = windows.batch(np.arange(2)).truths["main"].strata
    judged = next(Forest("main", layout, np.array([0, 1]), _Even()).answers(windows.read, [0, 1])).strata
    assert learned.tolist() == judged.tolist() == [[[0]], [[0]]]


class _Even:
    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        return np.full((len(features), 2), 0.5)
