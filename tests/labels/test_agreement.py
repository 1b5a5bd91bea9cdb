"""Labels against imagery: what is shifted or missing is found, what is well drawn or only hard to tell is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from olmoearth_core.labels.agreement import Agreement, Samples, agreement

CLASSES = ("land", "water", "rock")


def land(seed: int = 0, windows: int = 12, size: int = 64, noise: float = 1.0, kinds: int = 2) -> Samples:
    """Patches of two or three classes, each with a spectrum of its own in four bands."""
    random = np.random.default_rng(seed)
    rough = gaussian_filter(random.normal(size=(windows, size, size)), (0, 6, 6))
    target = np.digitize(rough, np.quantile(rough, np.linspace(0, 1, kinds + 1)[1:-1])).astype(np.uint8)
    spectra = np.array([[8.0, 7.5, 7.0, 8.2], [6.0, 6.2, 5.5, 5.0], [8.5, 8.6, 8.8, 7.0]])
    pixels = spectra[target] + noise * random.normal(0, 0.4, (windows, size, size, 4))
    corners = np.stack([np.arange(windows) * size, np.zeros(windows, int)], axis=1)
    return Samples(pixels.astype(np.float32), np.ones(target.shape, bool), target, corners)


def suspicious(found: Agreement) -> set[tuple[str, str]]:
    return {(pair.labelled, pair.like) for pair in found.look_alikes if pair.suspicious}


@pytest.mark.parametrize("kinds", [2, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_good_labels_agree(seed: int, kinds: int) -> None:
    found = agreement(land(seed, kinds=kinds), CLASSES)
    assert found.shift == (0, 0)
    assert suspicious(found) == set()
    assert found.separability is not None
    assert found.separability > 0.8


@pytest.mark.parametrize("shift", [(2, 0), (0, -3), (-4, 5), (8, 8)])
def test_a_shift_is_found_and_measured(shift: tuple[int, int]) -> None:
    """Labels drawn `shift` too far up and left have to be moved by it."""
    samples = land(kinds=3)
    wrong = np.roll(samples.target, (-shift[0], -shift[1]), axis=(1, 2))
    found = agreement(replace(samples, target=wrong), CLASSES)
    assert found.shift == shift
    assert found.shifted_separability is not None
    assert found.separability is not None
    assert found.shifted_separability > found.separability + 0.05


def test_a_shift_of_one_pixel_is_how_scenes_are_registered() -> None:
    samples = land()
    assert agreement(replace(samples, target=np.roll(samples.target, 1, axis=2)), CLASSES).shift == (0, 0)


def test_two_windows_that_are_shifted_are_not_the_file() -> None:
    """Two large wrong windows outweigh ten small ones; of windows drawn anew they are often not among them."""
    samples = land()
    target = samples.target.copy()
    target[:2] = np.roll(target[:2], (-3, 0), axis=(1, 2))
    target[2:, :, 12:] = 255
    few = replace(samples, target=target)
    assert agreement(few, CLASSES).shift == (0, 0)
    with pytest.MonkeyPatch.context() as patch:  # taken as they are, the labels would be moved
        patch.setattr("olmoearth_core.labels.agreement.SURE", 0.5)
        assert agreement(few, CLASSES).shift == (3, 0)


def test_patches_of_one_class_each_have_no_lines_to_miss() -> None:
    """A patch of river holds fields, too; nobody drew the river's edge, so nothing is said to be missing."""
    samples = land(kinds=3)
    patches = np.repeat(np.arange(12) % 2, 64 * 64).reshape(samples.target.shape).astype(np.uint8)
    seen = samples.target.copy()
    seen[patches == 1] = 1
    mixed = (patches == 0) & (np.indices(patches.shape)[2] < 24)
    seen[~mixed & (patches == 0)] = 0
    seen[mixed] = 1
    spectra = np.array([[8.0, 7.5, 7.0, 8.2], [6.0, 6.2, 5.5, 5.0]])
    noise = np.random.default_rng(0).normal(0, 0.4, samples.pixels.shape)
    found = agreement(replace(samples, target=patches, pixels=(spectra[seen] + noise).astype(np.float32)), CLASSES)
    assert suspicious(found) == set()
    (pair,) = [pair for pair in found.look_alikes if pair.labelled == "land"]
    assert not pair.side_by_side
    assert pair.share > 0.2


@pytest.mark.parametrize("missing", [0.3, 0.6])
def test_a_class_that_is_missing_in_places(missing: float) -> None:
    samples = land(kinds=3)
    target = samples.target.copy()
    windows = int(len(target) * missing)
    target[:windows][target[:windows] == 1] = 0
    found = agreement(replace(samples, target=target), CLASSES)
    assert suspicious(found) == {("land", "water")}
    (pair,) = [pair for pair in found.look_alikes if pair.suspicious]
    assert pair.share == pytest.approx(missing / (1 - missing), rel=0.25)
    assert set(pair.windows) <= set(range(windows))


@pytest.mark.parametrize("noise", [3.0, 8.0, 30.0])
def test_classes_that_are_hard_to_tell_are_not_called_missing(noise: float) -> None:
    for seed in range(3):
        found = agreement(land(seed, noise=noise, kinds=3), CLASSES)
        assert found.shift == (0, 0)
        assert suspicious(found) == set()


def test_a_rare_class_is_not_called_missing() -> None:
    samples = land(kinds=2)
    rare = samples.target.copy()
    rare[2:][rare[2:] == 1] = 255  # nothing is known there
    assert suspicious(agreement(replace(samples, target=rare), CLASSES)) == set()


def test_random_labels_are_not_told_apart() -> None:
    samples = land()
    target = np.random.default_rng(0).integers(0, 2, samples.target.shape).astype(np.uint8)
    found = agreement(replace(samples, target=target), CLASSES)
    assert found.separability is not None
    assert found.separability < 0.01
    assert max(min(pair.recognised, pair.recognised_rest) for pair in found.look_alikes) < 0.6


def test_too_little_to_say() -> None:
    samples = land(windows=1)
    target = np.full_like(samples.target, 255)
    target[0, :5, :5] = 0
    target[0, 5:10, :5] = 1
    assert agreement(replace(samples, target=target), CLASSES) == Agreement(None, (0, 0), None, ())
    assert agreement(replace(samples, seen=np.zeros_like(samples.seen)), CLASSES).separability is None


def test_a_band_that_says_nothing_changes_nothing() -> None:
    samples = land()
    flat = np.concatenate([samples.pixels, np.ones((*samples.target.shape, 1), np.float32)], axis=-1)
    assert agreement(replace(samples, pixels=flat), CLASSES) == agreement(samples, CLASSES)
