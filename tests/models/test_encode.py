"""What `encode` promises beyond the numbers: gaps, batches, bands, training, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from samples import LANDSAT, S1, S2, clouds, cubes, days, ragged
from torch.utils.flop_counter import FlopCounterMode

from olmoearth_core.errors import EncoderInputError
from olmoearth_core.models import build_encoder
from olmoearth_core.models.config import named
from olmoearth_core.models.encoder import Encoder, Features
from olmoearth_core.models.modalities import MODALITIES
from olmoearth_core.models.olmoearth_tokenizer import PatchEmbedding
from olmoearth_core.models.transformer import chances


@pytest.fixture(scope="module", params=["v1-nano", "v1.1-nano", "v1.2-nano", "galileo-nano"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return build_encoder(request.param, seed=3)


@pytest.fixture(scope="module")
def nano() -> Encoder:
    return build_encoder("v1.1-nano", seed=3)


def encode(encoder: Encoder, inputs: dict[str, Any], dates: Any, valid: Any = None, **options: Any) -> Features:
    with torch.inference_mode():
        return encoder.encode(inputs, dates, valid, **({"patch_size": 4} | options))


# --- gaps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masks", [ragged, lambda m, b, t: clouds(m, b, t, 16, 16)])
def test_a_sample_gives_in_a_batch_what_it_gives_alone(encoder: Encoder, masks: Any) -> None:
    modalities = encoder.modalities
    inputs, dates, valid = cubes(modalities, 4, 6, 16, 16), days(4, 6), masks(modalities, 4, 6)
    together = encode(encoder, inputs, dates, valid)
    for i in range(4):
        one = slice(i, i + 1)
        alone = encode(
            encoder, {m: x[one] for m, x in inputs.items()}, dates[one], {m: v[one] for m, v in valid.items()}
        )
        for m in modalities:
            assert torch.equal(together.present[m][one], alone.present[m])
            torch.testing.assert_close(together.tokens[m][one], alone.tokens[m], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.map()[one], alone.map(), atol=1e-5, rtol=0)


def test_missing_timesteps_might_as_well_not_have_been_given() -> None:
    encoder = build_encoder("v1.2-nano", seed=3)  # v1 and v1.1 also encode the place in the sequence
    inputs, dates = cubes((S2,), 1, 6, 16, 16), days(1, 6)
    kept = np.array([[True, False, True, True, False, False]])
    gappy = encode(encoder, inputs, dates, {S2: kept})
    short = encode(encoder, {S2: inputs[S2][:, kept[0]]}, dates[:, kept[0]])
    torch.testing.assert_close(gappy.map(), short.map(), atol=1e-5, rtol=0)
    torch.testing.assert_close(gappy.tokens[S2][:, kept[0]], short.tokens[S2], atol=1e-5, rtol=0)
    assert not gappy.tokens[S2][:, ~kept[0]].any()


def test_what_invalid_pixels_hold_does_not_matter(encoder: Encoder) -> None:
    inputs, dates, valid = cubes((S1,), 2, 3, 16, 16), days(2, 3), clouds((S1,), 2, 3, 16, 16)
    spoiled = np.where(valid[S1][:, :, None], inputs[S1], np.nan)
    other = np.where(valid[S1][:, :, None], inputs[S1], -99999.0)
    a, b = (encode(encoder, {S1: x}, dates, valid).map() for x in (spoiled, other))
    assert torch.equal(a, b)
    assert torch.isfinite(a).all()


def test_a_patch_is_present_where_its_top_left_pixel_is(nano: Encoder) -> None:
    valid = np.zeros((1, 1, 8, 8), bool)
    valid[0, 0, 4, 0] = True
    features = encode(nano, cubes((S2,), 1, 1, 8, 8), days(1, 1), {S2: valid})
    assert features.present[S2].flatten().tolist() == [False, False, True, False]
    assert features.map().abs().sum(dim=1).flatten().gt(0).tolist() == [False, False, True, False]


def test_a_sample_with_nothing_among_others_is_zero_and_disturbs_nobody(encoder: Encoder) -> None:
    inputs, dates = cubes((S2, S1), 3, 2, 16, 16), days(3, 2)
    valid = {m: np.array([[True, True], [False, False], [True, False]]) for m in (S2, S1)}
    dates[1] = np.datetime64("NaT")  # nobody knows when nothing was seen
    features = encode(encoder, inputs, dates, valid)
    pooled = features.map()
    assert torch.isfinite(pooled).all()
    assert not pooled[1].any()
    assert not features.present[S2][1].any()
    rest = [0, 2]
    without = encode(
        encoder, {m: x[rest] for m, x in inputs.items()}, dates[rest], {m: v[rest] for m, v in valid.items()}
    )
    torch.testing.assert_close(pooled[rest], without.map(), atol=1e-5, rtol=0)


def test_pooling_skips_a_modality_where_it_has_nothing(nano: Encoder) -> None:
    inputs, dates = cubes((S2, S1), 1, 2, 8, 8), days(1, 2)
    features = encode(nano, inputs, dates, {S1: np.array([[False, False]])})
    torch.testing.assert_close(features.map(), features.tokens[S2].mean(dim=(1, 4)).permute(0, 3, 1, 2))


@pytest.mark.parametrize("mixed", [False, True])
def test_half_the_timesteps_take_at_most_six_tenths_of_the_work(mixed: bool) -> None:
    """Attention is quadratic, so half the tokens should take less than half of the work; counted, not timed."""
    encoder = build_encoder("v1.1-tiny")
    b, t = 2, 12
    inputs, dates = cubes((S2,), b, t, 32, 32), days(b, t)
    half = np.zeros((b, t), bool)
    for i in range(b):
        half[i, (np.arange(6) + (i if mixed else 0)) % t] = True
    if mixed:
        half[0, 0], half[1, 11] = False, True  # 5 and 7 of 12 present
    work: dict[str, int] = {}
    for what, valid in (("full", None), ("half", {S2: half})):
        with FlopCounterMode(display=False) as counter:
            encode(encoder, inputs, dates, valid)
        work[what] = counter.get_total_flops()
    assert 0 < work["half"] <= 0.6 * work["full"]


# --- modalities and bands ---------------------------------------------------------------------------------------------


def test_the_order_of_modalities_in_the_dict_does_not_matter(encoder: Encoder) -> None:
    inputs, dates = cubes(encoder.modalities, 1, 2, 16, 16), days(1, 2)
    a = encode(encoder, inputs, dates)
    b = encode(encoder, {m: inputs[m] for m in reversed(encoder.modalities)}, dates)
    assert list(a.tokens) == list(b.tokens) == [m for m in (S2, S1, LANDSAT) if m in encoder.modalities]
    assert torch.equal(a.map(), b.map())


def test_bands_may_come_in_any_order(encoder: Encoder) -> None:
    inputs, dates = cubes((S2,), 1, 2, 16, 16), days(1, 2)
    names = MODALITIES[S2].band_names
    turned = encode(encoder, {S2: inputs[S2][:, :, ::-1].copy()}, dates, bands={S2: names[::-1]})
    assert torch.equal(turned.map(), encode(encoder, inputs, dates).map())


@pytest.mark.parametrize("name", ["v1-nano", "v1.1-nano"])
def test_absent_bands_are_filled_as_the_version_was_trained(name: str) -> None:
    """v1: raw values of the nearest wavelength (B01 from B02, B09 from B8A); later: zero after normalisation."""
    encoder = build_encoder(name, seed=3)
    inputs, dates = cubes((S2,), 1, 2, 16, 16), days(1, 2)
    official = MODALITIES[S2].band_names
    given = [i for i, band in enumerate(official) if band not in ("B01", "B09")]
    sparse = encode(encoder, {S2: inputs[S2][:, :, given]}, dates, bands={S2: [official[i] for i in given]})
    full = inputs[S2].astype(np.float64)
    for band, source in (("B01", "B02"), ("B09", "B8A")):
        stats = MODALITIES[S2].bands[official.index(band)]
        zero = stats.mean - 2 * stats.std
        full[:, :, official.index(band)] = full[:, :, official.index(source)] if name == "v1-nano" else zero
    torch.testing.assert_close(sparse.map(), encode(encoder, {S2: full}, dates).map(), atol=1e-6, rtol=0)


def test_absent_bands_are_filled_as_the_official_normaliser_fills_them() -> None:
    import warnings

    from olmoearth_pretrain_minimal import Normalizer
    from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.utils.constants import Modality

    from olmoearth_core.models.batch import check
    from olmoearth_core.models.olmoearth import OlmoEarth

    random = np.random.default_rng(0)
    for name in ("v1-nano", "v1.1-nano"):
        encoder = build_encoder(name)
        assert isinstance(encoder, OlmoEarth)
        for m in (S2, S1, LANDSAT):
            bands = MODALITIES[m].band_names
            for _ in range(4):
                kept = sorted(random.choice(len(bands), random.integers(1, len(bands) + 1), replace=False).tolist())
                cube = cubes((m,), 1, 1, 8, 8)[m].astype(np.float64)
                lacking = np.full_like(cube, np.nan)
                lacking[:, :, kept] = cube[:, :, kept]
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    official = Normalizer(model_type=name[:-5]).normalize(
                        Modality.get(m), lacking.transpose(0, 3, 4, 1, 2)
                    )
                batch = check(
                    {m: cube[:, :, kept]}, days(1, 1), None, {m: [bands[i] for i in kept]},
                    patch_size=8, resolution=10.0, allowed=(m,),
                )  # fmt: skip
                ours = encoder.tokenizer.normalise(MODALITIES[m], batch, None)
                np.testing.assert_array_equal(
                    ours[0].numpy(), official[0, ..., 0, :].transpose(2, 0, 1).astype(np.float32)
                )


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16, np.int32])
def test_what_is_given_is_left_as_it_was(encoder: Encoder, dtype: Any) -> None:
    cube = cubes((S2,), 1, 2, 16, 16)[S2].astype(dtype)
    before = cube.copy()
    encode(encoder, {S2: cube}, days(1, 2))
    encode(encoder, {S2: cube}, days(1, 2), {S2: np.array([[True, False]])})
    np.testing.assert_array_equal(cube, before)


def test_tensors_and_arrays_are_the_same_to_it(nano: Encoder) -> None:
    inputs, dates = cubes((S2,), 2, 2, 16, 16), days(2, 2)
    valid = {S2: np.array([[True, False], [True, True]])}
    a = encode(nano, inputs, dates, valid)
    b = encode(nano, {S2: torch.as_tensor(inputs[S2].astype(np.float32))}, dates, {S2: torch.as_tensor(valid[S2])})
    assert torch.equal(a.map(), b.map())


# --- training ---------------------------------------------------------------------------------------------------------


def test_random_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    a = build_encoder("v1.2-nano", seed=5).state_dict()
    before = torch.random.get_rng_state()
    b = build_encoder("v1.2-nano", seed=5).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    c = build_encoder("v1.2-nano", seed=6).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["blocks.0.mlp.fc1.weight"], c["blocks.0.mlp.fc1.weight"])


@pytest.mark.parametrize("name", ["v1-nano", "v1.1-nano", "v1.2-nano", "galileo-nano", "galileo-nano-ndvi"])
def test_gradients_reach_every_weight_of_the_modalities_used(name: str) -> None:
    torch.manual_seed(0)  # by chance, stochastic depth would leave a branch out of both samples
    encoder = build_encoder(name).train()
    valid = ragged((S2, S1), 2, 3)
    encoder.encode(cubes((S2, S1), 2, 3, 16, 16), days(2, 3), valid, patch_size=4).map().square().mean().backward()
    without = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(".landsat" in n for n in without), without


def test_stochastic_depth_drops_whole_samples_and_only_while_training(nano: Encoder) -> None:
    inputs, dates = cubes((S2,), 2, 2, 16, 16), days(2, 2)
    still = [encode(nano, inputs, dates).map() for _ in range(2)]
    assert torch.equal(*still)
    nano.train()
    try:
        unseeded = encode(nano, inputs, dates).map()
        moved = [encode(nano, inputs, dates, seeds=np.array([seed, seed + 100])).map() for seed in range(8)]
        upside_down = {m: x[::-1].copy() for m, x in inputs.items()}
        turned = encode(nano, upside_down, dates[::-1], seeds=np.array([107, 7])).map()
    finally:
        nano.eval()
    assert torch.equal(unseeded, still[0])
    assert any(not torch.equal(m, still[0]) for m in moved)
    assert torch.allclose(turned.flip(0), moved[7], atol=1e-6)  # what a sample is without is its own
    x = torch.ones(5, 3)
    block = nano.blocks[0].train()  # type: ignore[index, union-attr]
    drawn = [chances([seed, seed + 5000], 1, x.device)[0, 0] for seed in range(4000)]
    dropped = torch.stack([block._drop(x, ((1, 2), (1, 3)), chance) for chance in drawn])
    nano.eval()
    assert torch.equal(dropped[:, 0], dropped[:, 1])  # a sample as a whole
    assert torch.equal(dropped[:, 2], dropped[:, 4])
    assert not torch.equal(dropped[:, 0], dropped[:, 2])
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.02)  # what is kept makes up for what is dropped
    assert (dropped == 0).float().mean().item() == pytest.approx(0.1, abs=0.02)


# --- what is refused --------------------------------------------------------------------------------------------------


def good() -> dict[str, Any]:
    return {"inputs": cubes((S2,), 2, 3, 16, 16), "dates": days(2, 3), "valid": None, "patch_size": 4}


def broken(**changes: Any) -> dict[str, Any]:
    return good() | changes


def with_value(value: float, dtype: Any = np.float32) -> dict[str, Any]:
    cube = good()["inputs"][S2].astype(dtype)
    cube[1, 2, 5, 3, 4] = value
    return {S2: cube}


BAD = {
    "height that p does not divide": (broken(patch_size=5), "16 x 16 pixels do not divide into patches of 5"),
    "patch size 9": (broken(patch_size=9), "patch_size is 9"),
    "patch size 0": (broken(patch_size=0), "patch_size is 0"),
    "patch size 4.0": (broken(patch_size=4.0), "patch_size is 4.0"),
    "no resolution": (broken(resolution=0), "resolution is 0"),
    "resolution that is none": (broken(resolution=float("nan")), "resolution is nan"),
    "no inputs": (broken(inputs={}), "inputs is empty"),
    "no timestep": (broken(inputs={S2: np.zeros((2, 0, 12, 16, 16))}, dates=days(2, 0)), "none of them may be 0"),
    "no sample": (broken(inputs={S2: np.zeros((0, 3, 12, 16, 16))}, dates=days(0, 3)), "none of them may be 0"),
    "nothing present": (broken(valid={S2: np.zeros((2, 3), bool)}), "nothing is present"),
    "no top-left pixel": (broken(valid={S2: np.tile(np.arange(16) % 4 > 0, (2, 3, 16, 1))}), "nothing is present"),
    "unknown modality": (broken(inputs={"naip": np.zeros((2, 3, 4, 16, 16))}), "'naip' is no modality"),
    "mask without modality": (broken(valid={S1: np.ones((2, 3), bool)}), "'sentinel1' is not among the inputs"),
    "unknown band": (broken(bands={S2: ["B02", "B03", "B99"]}), "no band 'B99'"),
    "doubled band": (broken(bands={S2: ["B02"] * 12}), "name each supplied band once"),
    "bands that do not fit": (broken(bands={S2: ["B02", "B03"]}), "12 channels but 2 bands"),
    "too few channels": (broken(inputs={S2: np.zeros((2, 3, 4, 16, 16))}), "4 channels but 12 bands"),
    "four axes": (broken(inputs={S2: np.zeros((3, 12, 16, 16))}), r"five axes \(B, T, C, H, W\)"),
    "words": (broken(inputs={S2: np.full((2, 3, 12, 16, 16), "x")}), "no numeric array"),
    "booleans": (broken(inputs={S2: np.ones((2, 3, 12, 16, 16), bool)}), "holds torch.bool"),
    "dates as numbers": (broken(dates=np.arange(6).reshape(2, 3)), "hold int64, not dates"),
    "dates as words": (broken(dates=np.full((2, 3), "2024-01-01")), "not dates"),
    "dates of another shape": (broken(dates=days(2, 4)), r"shape \(2, 4\)"),
    "no date where something was seen": (broken(dates=np.full((2, 3), np.datetime64("NaT", "D"))), "NaT at sample 0"),
    "mask as numbers": (broken(valid={S2: np.ones((2, 3))}), "expected are booleans"),
    "mask of another shape": (broken(valid={S2: np.ones((2, 3, 8, 8), bool)}), r"bool \(2, 3, 8, 8\)"),
    "unequal shapes": (broken(inputs=cubes((S2,), 2, 3, 16, 16) | cubes((S1,), 2, 3, 8, 8)), "share"),
    "NaN": (broken(inputs=with_value(np.nan)), "sample 1, timestep 2, channel 5, row 3, column 4"),
    "infinity": (broken(inputs=with_value(np.inf)), "NaN, infinite, huge or -99999"),
    "the missing value": (broken(inputs=with_value(-99999)), "NaN, infinite, huge or -99999"),
    "the missing value among integers": (
        broken(inputs={S2: np.asarray(with_value(-99999)[S2]).astype(np.int32)}), "NaN, infinite, huge or -99999"
    ),
    "a number beyond all measure": (broken(inputs={S2: np.asarray(with_value(1e30)[S2], np.float64)}), "huge"),
    "patch size True": (broken(patch_size=True), "patch_size is True"),
    "resolution True": (broken(resolution=True), "resolution is True"),
    "inputs that are no dict": (broken(inputs=np.zeros((2, 3, 12, 16, 16))), "inputs is ndarray"),
    "mask that is no dict": (broken(valid=np.ones((2, 3), bool)), "valid is ndarray"),
    "bands that are no list": (broken(bands={S2: 5}), "bands of sentinel2_l2a is 5"),
    "ragged lists": (broken(inputs={S2: [[1.0], [1.0, 2.0]]}), "no numeric array"),
    "ragged dates": (broken(dates=[["2024-01-01"], []]), "dates"),
    "a masked array": (broken(inputs={S2: np.ma.masked_less(np.ones((2, 3, 12, 16, 16)), 2)}), "is a masked array"),
    "complex numbers": (broken(inputs={S2: np.ones((2, 3, 12, 16, 16), np.complex64)}), "holds torch.complex64"),
}  # fmt: skip


@pytest.mark.parametrize(("given", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_by_name_before_anything_is_computed(
    nano: Encoder, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(type(nano), "_encode", lambda *_: pytest.fail("compute was spent"))
    inputs, dates, valid = given.pop("inputs"), given.pop("dates"), given.pop("valid")
    try:
        with pytest.raises(EncoderInputError, match=message):
            nano.encode(inputs, dates, valid, **given)
    finally:
        given.update(inputs=inputs, dates=dates, valid=valid)


def test_arrays_of_any_layout_give_the_same(nano: Encoder) -> None:
    given = good()
    cube = np.asarray(given["inputs"][S2])
    expected = encode(nano, {S2: cube}, given["dates"]).map()
    frozen = cube.copy()
    frozen.flags.writeable = False
    reversed_twice = cube[:, ::-1].copy()[:, ::-1]
    for same in (frozen, reversed_twice, cube.astype(cube.dtype.newbyteorder(">"))):
        assert torch.equal(encode(nano, {S2: same}, given["dates"]).map(), expected)


def test_locations_may_be_asked_for_after_the_block_that_encoded() -> None:
    encoder = build_encoder("v1.3-base", seed=0)
    inputs, dates = cubes((S2,), 1, 1, 8, 8), days(1, 1)
    with torch.inference_mode():
        features = encoder.encode(inputs, dates, patch_size=8)
        inside = encoder.encode(inputs, dates, patch_size=8).locations
    assert torch.equal(features.locations, inside)


def test_good_input_is_good(nano: Encoder) -> None:
    given = good()
    assert encode(nano, given["inputs"], given["dates"]).map().shape == (2, 128, 4, 4)


@pytest.mark.parametrize("name", ["v1-nano", "v1.1-nano", "v1.2-tiny"])
def test_random_first_weights_tell_the_patches_of_one_region_apart(name: str) -> None:
    """Within a region normalised values differ by little: the first layer must make more of that than it adds."""
    torch.manual_seed(0)
    patches = 0.5 + 0.08 * torch.randn(64, 12, 1, 1).expand(64, 12, 8, 8)
    embedding = PatchEmbedding(12, named(name))

    def told_apart() -> tuple[float, float]:
        tokens = embedding(patches).flatten(1)
        return tokens.std(dim=0).mean().item(), tokens.mean(dim=0).abs().mean().item()

    before, common_before = told_apart()
    embedding.raise_contrast()
    after, common = told_apart()
    assert before < common_before / 3
    assert after > 8 * before
    assert after > 1.2 * common
