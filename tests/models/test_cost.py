"""The MAC count against torch's own counter, and what is made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from olmoearth_core.errors import EncoderInputError
from olmoearth_core.models.batch import Layout, check
from olmoearth_core.models.catalogue import KNOWN, family_of, named
from olmoearth_core.models.cost import Estimate, Workload, estimate, macs, measure, table, tokens
from olmoearth_core.models.cost_plot import plot
from olmoearth_core.models.modalities import MODALITIES
from olmoearth_core.models.origin import Origin

EVERYTHING = ("sentinel2_l2a", "sentinel1", "landsat")


def counted(name: str, work: Workload, *, locations: bool) -> int:
    """MACs that torch counts while the encoder runs on the meta device, where nothing is computed."""
    with torch.device("meta"):
        encoder = family_of(name).encoder()(named(name), Origin("random")).eval().requires_grad_(False).to("meta")
    side = work.window_size
    inputs = {
        m: torch.empty((1, work.timesteps, len(MODALITIES[m].bands), side, side), device="meta")
        for m in work.modalities
    }
    dates = np.datetime64("2024-01-15") + 30 * np.arange(work.timesteps)[None]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        features = encoder.encode(inputs, dates, patch_size=work.patch_size, resolution=work.resolution)
        if locations:
            _ = features.locations
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("modalities", [("sentinel2_l2a",), EVERYTHING])
def test_macs_agree_with_torch(name: str, modalities: tuple[str, ...]) -> None:
    modalities = tuple(m for m in modalities if m in named(name).band_sets)
    work = Workload(window_size=16, patch_size=4, timesteps=3, modalities=modalities)
    for locations in {False, named(name).location_tokens}:
        assert macs(named(name), work, locations=locations) == pytest.approx(
            counted(name, work, locations=locations), rel=0.01
        )


# GMAC for Sentinel-2, twelve months, as published in facts/encoders.md.
@pytest.mark.parametrize(
    ("name", "window", "patch", "gmac"),
    [
        ("v1-nano", 64, 8, 7.32), ("v1.1-nano", 64, 8, 1.29), ("v1-nano", 64, 4, 94.5), ("v1.1-nano", 64, 4, 12.4),
        ("v1-nano", 128, 4, 1422), ("v1.1-nano", 128, 4, 166), ("v1-tiny", 64, 4, 441), ("v1.1-tiny", 64, 4, 62.4),
        ("v1-base", 64, 8, 294), ("v1.1-base", 64, 8, 78.6), ("v1-base", 128, 4, 28187), ("v1.1-base", 128, 4, 3866),
    ],
)  # fmt: skip
def test_macs_are_the_known_ones(name: str, window: int, patch: int, gmac: float) -> None:
    assert macs(named(name), Workload(window, patch, 12)) / 1e9 == pytest.approx(gmac, rel=0.005)


@pytest.mark.parametrize(
    ("name", "gmac"), [("galileo-nano", 0.362), ("galileo-tiny", 2.18), ("galileo-base", 29.1), ("v1-nano", 0.195)]
)
def test_one_image_costs_what_is_known(name: str, gmac: float) -> None:
    work = Workload(64, 8, 1)
    assert tokens(named(name), work) == (320 if name.startswith("galileo") else 192)
    assert macs(named(name), work) / 1e9 == pytest.approx(gmac, rel=0.005)


def test_the_pixels_of_a_window_cost_galileo_the_same_at_any_patch_size() -> None:
    work = [Workload(24, p, 2) for p in (2, 4, 8)]
    assert len({named("galileo-nano").embedding_macs(w) for w in work}) == 1


def test_an_encoder_is_not_priced_for_what_it_does_not_read() -> None:
    with pytest.raises(
        EncoderInputError, match="galileo-nano does not read landsat; it reads sentinel2_l2a, sentinel1"
    ):
        estimate(["v1-nano", "galileo-nano"], Workload(modalities=EVERYTHING))


def test_tokens_of_the_window_are_those_that_the_encoder_makes() -> None:
    work = Workload(16, 4, 3, EVERYTHING)
    inputs = {m: np.zeros((1, 3, len(MODALITIES[m].bands), 16, 16), np.float32) for m in EVERYTHING}
    dates = np.datetime64("2024-01-15") + 30 * np.arange(3)[None]
    batch = check(inputs, dates, None, None, patch_size=4, resolution=10.0, allowed=EVERYTHING)
    for name in ("v1-nano", "v1.1-nano"):
        sets = named(name).band_sets
        layout = Layout({m: batch.present(m, len(sets[m])) for m in EVERYTHING})
        assert layout.groups == ((1, tokens(named(name), work)),)


def test_a_square_kilometre_takes_more_windows_where_they_overlap() -> None:
    apart, together = Workload(64, 4), Workload(64, 4, overlap=0.5)
    assert apart.windows_per_km2 == pytest.approx(1e6 / 640**2)
    assert together.windows_per_km2 == pytest.approx(4 * apart.windows_per_km2)


def test_estimate_prices_an_area_from_a_measured_speed(tmp_path: Path) -> None:
    work = Workload(16, 8, 2)
    rows = estimate(
        ["v1-nano", "v1.1-nano"],
        work,
        windows=100 * work.windows_per_km2,
        price_per_hour=2.0,
        calibrate=True,
        seconds=0.02,
    )
    assert [r.name for r in rows] == ["v1.1-nano", "v1-nano"]
    for r in rows:
        assert r.speed is not None
        assert r.speed.measured
        assert r.hours == pytest.approx(100 * work.windows_per_km2 / r.speed.windows_per_second / 3600)
        assert r.money == pytest.approx(2.0 * (r.hours or 0))
    header, body = table(rows)
    assert header[-2:] == ["hours", "cost"]
    assert all(len(line) == len(header) for line in body)
    plot(rows, tmp_path / "family.png")
    assert (tmp_path / "family.png").read_bytes().startswith(b"\x89PNG")


def test_encoders_too_slow_to_measure_are_scaled_by_their_macs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "olmoearth_core.models.cost.measure", lambda name, work, **given: measure("v1.1-nano", work, **given)
    )
    slow, large = estimate(["v1.1-nano", "v1-large"], Workload(32, 2, 4), calibrate=True, seconds=1e-5)
    assert slow.speed is not None
    assert large.speed is not None
    assert not large.speed.measured
    assert large.speed.windows_per_second == pytest.approx(slow.speed.windows_per_second * slow.macs / large.macs)


def test_the_table_without_a_calibration_holds_only_arithmetic() -> None:
    header, body = table(estimate(["v1.1-base"], Workload(64, 4, 12)))
    assert header == ["encoder", "tokens/window", "GMAC/window", "tokens/km²", "GMAC/km²"]
    assert body[0][:3] == ["v1.1-base", "3,072", "445"]


def test_money_needs_a_price_and_windows() -> None:
    row = Estimate("v1.1-nano", 1, 1, Workload())
    assert row.hours is None
    assert row.money is None


@pytest.mark.parametrize("wrong", [{"patch_size": 5}, {"patch_size": 16}, {"timesteps": 0}, {"modalities": ("naip",)}])
def test_a_workload_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(EncoderInputError, match=str(next(iter(wrong.values()))).strip("(),'")):
        Workload(**wrong)  # type: ignore[arg-type]
