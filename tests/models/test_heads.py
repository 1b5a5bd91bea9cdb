"""Heads give every pixel, or every window, its scores; a U-Net's see detail finer than a patch."""

from __future__ import annotations

import pytest
import torch

from olmoearth_core.errors import TrainingError
from olmoearth_core.models.heads import OF_PIXELS, OF_WINDOWS, HeadShape, Upsample, build_head, mean_token


def _shape(patch_size: int = 4, *, of_windows: bool = False) -> HeadShape:
    return HeadShape(16, 5, patch_size, pixel_channels=6, hidden=4, of_windows=of_windows)


@pytest.mark.parametrize("patch_size", range(1, 9))
@pytest.mark.parametrize("kind", OF_PIXELS)
def test_each_pixel_gets_a_score_for_each_class(kind: str, patch_size: int) -> None:
    head = build_head(kind, _shape(patch_size))
    height, width = 3 * patch_size, 4 * patch_size
    scores = head(torch.randn(2, 16, 3, 4), torch.randn(2, 6, height, width))
    assert scores.shape == (2, 5, height, width)
    scores.sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


@pytest.mark.parametrize("kind", OF_WINDOWS)
def test_each_window_gets_a_score_for_each_class(kind: str) -> None:
    head = build_head(kind, _shape(of_windows=True))
    assert head(torch.randn(2, 16, 3, 4), None).shape == (2, 5, 1, 1)


def test_a_token_speaks_for_its_own_pixels() -> None:
    head = Upsample(_shape())
    features = torch.randn(1, 16, 3, 3)
    spread = head.to_pixels(head.spread(features))
    features[0, :, 1, 2] += 1
    changed = (head.to_pixels(head.spread(features)) != spread).any(dim=1)[0]
    assert changed[4:8, 8:12].all()
    assert changed.sum() == 16


def test_a_unet_tells_pixels_of_one_token_apart() -> None:
    torch.manual_seed(0)
    head = build_head("unet", _shape(8))
    features, pixels = torch.randn(1, 16, 4, 4), torch.zeros(1, 6, 32, 32)
    before = head(features, pixels)[0]
    pixels[:, :, 4, 4] = 10
    change = (head(features, pixels)[0] - before).abs().sum(dim=0)
    assert change[4, 4] > 3 * change[1, 7]  # of the same token
    assert change[4, 4] > 10 * change[24:, 24:].max()


def test_patches_that_were_not_seen_do_not_count() -> None:
    features = torch.randn(1, 4, 2, 2)
    features[0, :, 0, 1] = 0
    assert torch.allclose(mean_token(features)[0], features[0].flatten(1)[:, [0, 2, 3]].mean(dim=1))
    assert torch.equal(mean_token(torch.zeros(1, 4, 2, 2)), torch.zeros(1, 4))


def test_a_head_that_does_not_fit_the_task_is_refused() -> None:
    with pytest.raises(
        TrainingError, match=r"model.head: 'pool' does not score each pixel; allowed are linear, upsample"
    ):
        build_head("pool", _shape())
    with pytest.raises(TrainingError, match=r"'unet' does not score windows as a whole; allowed are linear, pool"):
        build_head("unet", _shape(of_windows=True))
