"""Our encoder against the official one: same weights, same inputs, the official model run sample by sample."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from reference import encode_official
from samples import LANDSAT, S1, S2, clouds, cubes, days, ragged

from olmoearth_core.models.config import NAMES, named
from olmoearth_core.models.cost import Workload, macs

TOLERANCE = 1e-5
SMALL = tuple(name for name in NAMES if name.endswith(("nano", "tiny")))
MODALITIES = ((S2,), (S1,), (LANDSAT,), (S2, S1, LANDSAT))
MASKS = ("full", "ragged", "clouds")


@dataclass(frozen=True)
class Case:
    patch: int
    timesteps: int
    modalities: tuple[str, ...]
    mask: str
    resolution: int

    def __str__(self) -> str:
        return f"p{self.patch}-T{self.timesteps}-{'+'.join(self.modalities)}-{self.mask}-{self.resolution}m"

    def edge(self, name: str, budget: float) -> int:
        """16 px (20 for p = 5), or 8 or 4 px where the larger window would cost more MACs than `budget`."""
        edges = (20, 10) if self.patch == 5 else tuple(e for e in (16, 8, 4) if e >= self.patch)
        works = {e: Workload(e, self.patch, self.timesteps, self.modalities) for e in edges}
        return next((e for e in edges if macs(named(name), works[e]) < budget), edges[-1])


PATCHES, STEPS, RESOLUTIONS = (1, 2, 4, 5, 8), (1, 4, 12, 20), (10, 20)
PAIRWISE = [
    Case(p, t, MODALITIES[(i + j) % 4], MASKS[(i + 2 * j) % 3], RESOLUTIONS[(i // 2 + j) % 2])
    for (i, p), (j, t) in itertools.product(enumerate(PATCHES), enumerate(STEPS))
]
"""20 cases in which every two values of any two properties meet."""
ALL = [Case(*values) for values in itertools.product(PATCHES, STEPS, MODALITIES, MASKS, RESOLUTIONS)]


def test_the_cases_cover_every_pair_of_values() -> None:
    axes = ("patch", "timesteps", "modalities", "mask", "resolution")
    for a, b in itertools.combinations(axes, 2):
        met = {(getattr(c, a), getattr(c, b)) for c in PAIRWISE}
        assert met == {(getattr(c, a), getattr(c, b)) for c in ALL}, (a, b)


def differences(pair: Callable, name: str, case: Case, *, budget: float) -> dict[str, float]:  # type: ignore[type-arg]
    """Max abs difference of tokens, map and (v1.3) location tokens and their readout."""
    official, ours = pair(name)
    edge = case.edge(name, budget)
    shape = (2, case.timesteps)
    inputs = cubes(case.modalities, *shape, edge, edge)
    dates = days(*shape)
    valid = {
        "full": lambda: None,
        "ragged": lambda: ragged(case.modalities, *shape),
        "clouds": lambda: clouds(case.modalities, *shape, edge, edge),
    }[case.mask]()
    tokens, pooled, places = encode_official(
        official, name, inputs, dates, valid, patch_size=case.patch, resolution=case.resolution
    )
    with torch.inference_mode():
        features = ours.encode(inputs, dates, valid, patch_size=case.patch, resolution=case.resolution)
        out = {f"tokens of {m}": apart(features.tokens[m], tokens[m]) for m in case.modalities}
        out["map"] = apart(features.map(), pooled)
        if places:
            out["locations"] = apart(features.locations, places["location_tokens"])
            out["student"] = apart(features.student, places["student_location_tokens"])
    assert pooled.std() > 0.1, "the reference itself says nothing"
    return out


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()


@pytest.mark.parametrize("case", PAIRWISE, ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_outputs_are_the_official_ones(pair: Callable, name: str, case: Case) -> None:  # type: ignore[type-arg]
    for what, difference in differences(pair, name, case, budget=1e10).items():
        assert difference <= TOLERANCE, what


@pytest.mark.verify
@pytest.mark.parametrize("name", [name for name in NAMES if name not in SMALL])
def test_outputs_are_the_official_ones_in_every_size(pair: Callable, name: str) -> None:  # type: ignore[type-arg]
    for case in PAIRWISE:
        for what, difference in differences(pair, name, case, budget=1e11).items():
            assert difference <= TOLERANCE, f"{case}: {what}"


@pytest.mark.verify
@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("nano")])
def test_outputs_are_the_official_ones_in_every_combination(pair: Callable, name: str) -> None:  # type: ignore[type-arg]
    for case in ALL:
        for what, difference in differences(pair, name, case, budget=1e11).items():
            assert difference <= TOLERANCE, f"{case}: {what}"


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("nano")])
def test_a_window_need_not_be_square(pair: Callable, name: str) -> None:  # type: ignore[type-arg]
    """The official v1 crashes on 8 x 16 px; a 16 x 16 window whose lower half is missing is the same to it."""
    official, ours = pair(name)
    inputs, dates = cubes((S2,), 1, 3, 16, 16), days(1, 3)
    upper = np.zeros((1, 3, 16, 16), bool)
    upper[:, :, :8] = True
    tokens, _, _ = encode_official(official, name, inputs, dates, {S2: upper}, patch_size=4)
    with torch.inference_mode():
        features = ours.encode({S2: inputs[S2][..., :8, :]}, dates, patch_size=4)
    assert features.map().shape == (1, 128, 2, 4)
    # At p = 4 the resampling of the last row of patches reads over the edge; the first row is the same.
    whole = ours.encode(inputs, dates, {S2: upper}, patch_size=4)
    assert apart(whole.tokens[S2], tokens[S2]) <= TOLERANCE
    eight, _, _ = encode_official(official, name, inputs, dates, {S2: upper}, patch_size=8)
    with torch.inference_mode():
        flat = ours.encode({S2: inputs[S2][..., :8, :]}, dates, patch_size=8)
    assert apart(flat.tokens[S2], eight[S2][:, :, :1]) <= TOLERANCE


def bf16_errors(pair: Callable, name: str) -> Iterator[tuple[float, float]]:  # type: ignore[type-arg]
    """(ours, official autocast) rms differences of the pooled map from the official one in fp32."""
    from copy import deepcopy

    from olmoearth_core.models.precision import apply_precision

    official, ours = pair(name)
    half = apply_precision(deepcopy(ours), "bf16")
    for case in (Case(4, 4, (S2,), "full", 10), Case(8, 12, (S2, S1, LANDSAT), "full", 10)):
        inputs, dates = cubes(case.modalities, 2, case.timesteps, 16, 16), days(2, case.timesteps)
        _, exact, _ = encode_official(official, name, inputs, dates, patch_size=case.patch)
        with torch.autocast("cpu", torch.bfloat16):
            _, cast, _ = encode_official(official, name, inputs, dates, patch_size=case.patch)
        with torch.inference_mode():
            mine = half.encode(inputs, dates, patch_size=case.patch).map()
        assert mine.dtype == torch.float32
        yield tuple((found.float() - exact).square().mean().sqrt().item() for found in (mine, cast))  # type: ignore[misc]


@pytest.mark.parametrize("name", SMALL)
def test_bf16_is_nearer_to_fp32_than_the_official_autocast(pair: Callable, name: str) -> None:  # type: ignore[type-arg]
    for mine, cast in bf16_errors(pair, name):
        assert 0 < mine < cast


@pytest.mark.verify
@pytest.mark.parametrize("name", [name for name in NAMES if name not in SMALL])
def test_bf16_is_nearer_than_autocast_in_every_size(
    pair: Callable,  # type: ignore[type-arg]
    name: str,
    record_property: Callable[[str, object], None],
) -> None:
    for case, (mine, cast) in enumerate(bf16_errors(pair, name)):
        record_property(f"rms_{case}", {"ours": mine, "autocast": cast})
        assert 0 < mine < cast
