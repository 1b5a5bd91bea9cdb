"""Galileo against its original: recorded outputs of the published nano weights; closed forms that need no weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import S1, S2, cubes, days

from olmoearth_core.errors import EncoderInputError
from olmoearth_core.models import build_encoder, load_encoder
from olmoearth_core.models.encoder import Encoder, Features
from olmoearth_core.models.galileo import GROUPS, Galileo
from olmoearth_core.models.galileo_config import BAND_SETS, STATISTICS, named
from olmoearth_core.models.galileo_tokenizer import FlexiblePatchEmbedding, resize_weights
from olmoearth_core.models.modalities import MODALITIES

TOLERANCE = 1e-5
ORDER = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
"""Of the recorded inputs: the bands that Galileo reads, in the order of its band sets."""

FIRST = {
    "s2_p8": (-0.005991, -0.017832, -0.104709),
    "s2_ndvi_p4": (0.006941, 0.034483, 0.059389),
    "s2_s1_p8": (-0.019951, -0.001449, -0.117349),
    "s2_p2_t1": (0.005883, -0.011600, 0.143064),
    "s2_gaps_p8": (-0.015653, -0.011491, -0.168893),
    "s2_res20_p4": (0.004237, 0.020963, 0.069264),
}
"""The first values of `mean_of_tokens`, by case: what the recorded file itself must hold."""


@pytest.fixture(scope="module")
def weights(real_data: Path) -> Path:
    return real_data / "weights" / "galileo_nano"


@pytest.fixture(scope="module")
def recorded(weights: Path) -> dict[str, np.ndarray]:
    with np.load(weights / "reference_outputs.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def nano() -> Galileo:
    encoder = build_encoder("galileo-nano", seed=3)
    assert isinstance(encoder, Galileo)
    return encoder


def encode(encoder: Encoder, inputs: dict[str, Any], dates: Any, valid: Any = None, **options: Any) -> Features:
    with torch.inference_mode():
        return encoder.encode(inputs, dates, valid, **({"patch_size": 4} | options))


def mean_of_tokens(features: Features) -> torch.Tensor:
    """The original's own pooling, (B, D): over all tokens of a sample alike."""
    total = sum(x.sum(dim=(1, 2, 3, 4)) for x in features.tokens.values())
    count = sum(x.sum(dim=(1, 2, 3, 4)) for x in features.present.values())
    return total / count[:, None]  # type: ignore[operator, index]


# --- against the original ---------------------------------------------------------------------------------------------


def differences(encoder: Encoder, recorded: dict[str, np.ndarray], case: str) -> dict[str, float]:
    """Largest absolute difference of the tokens that are present, and of their mean, from the recorded ones."""
    of = {key.removeprefix(f"{case}/"): value for key, value in recorded.items() if key.startswith(f"{case}/")}
    _, _, patch, _, radar, resolution = (int(v) for v in of["meta"])
    absent = of["mask"].astype(bool)  # (B, T, group)
    inputs, valid = {S2: of["s2"]}, {S2: ~absent[:, :, 1]}
    if radar:
        inputs[S1], valid[S1] = of["s1"], ~absent[:, :, 0]
    dates = (np.datetime64("2020-01", "M") + of["months"]).astype("datetime64[D]")
    features = encode(encoder, inputs, dates, valid, patch_size=patch, resolution=resolution, bands={S2: ORDER})

    expected = torch.as_tensor(of["space_time_tokens"]).permute(0, 3, 1, 2, 4, 5)  # (B, T, h, w, group, D)
    names = recorded["groups"].tolist()
    out = {"mean": apart(mean_of_tokens(features), torch.as_tensor(of["mean_of_tokens"]))}
    for m, tokens in features.tokens.items():
        groups = [names.index(group) for group in GROUPS[m][: tokens.shape[-2]]]
        there = torch.as_tensor(~absent[:, :, None, None, groups])
        assert torch.equal(features.present[m], there.expand(features.present[m].shape))
        assert not tokens[~features.present[m]].any()
        here = features.present[m]
        out[m] = apart(tokens[here], expected[..., groups, :][here])
    return out


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()


@pytest.mark.parametrize("case", FIRST)
def test_outputs_are_those_of_the_original(
    weights: Path, recorded: dict[str, np.ndarray], case: str, record_property: Callable[[str, object], None]
) -> None:
    np.testing.assert_allclose(recorded[f"{case}/mean_of_tokens"][0, :3], FIRST[case], atol=1e-6)
    name = "galileo-nano-ndvi" if recorded[f"{case}/meta"][3] else "galileo-nano"
    encoder = load_encoder(str(weights), name=name, precision="fp32", device="cpu")
    found = differences(encoder, recorded, case)
    record_property("max_abs", found)
    assert max(found.values()) <= TOLERANCE, found


def test_bf16_is_nearer_than_autocast(weights: Path, recorded: dict[str, np.ndarray]) -> None:
    """Root mean square difference of the map from fp32; autocast of the same encoder is the usual alternative."""
    exact, near = (load_encoder(str(weights), precision=p, device="cpu") for p in ("fp32", "bf16"))
    inputs, dates = {S2: recorded["s2_p8/s2"]}, days(2, 3)
    options: dict[str, Any] = {"patch_size": 4, "bands": {S2: ORDER}}
    expected = encode(exact, inputs, dates, **options).map()
    with torch.autocast("cpu", torch.bfloat16):
        cast = encode(exact, inputs, dates, **options).map()
    error, usual = ((x.float() - expected).square().mean().sqrt().item() for x in
                    (encode(near, inputs, dates, **options).map(), cast))  # fmt: skip
    assert 0 < error < usual
    assert error < 0.02


# --- closed forms -----------------------------------------------------------------------------------------------------


def test_encodings_are_those_of_the_paper_by_hand(nano: Galileo) -> None:
    """A token of band set, time slot, month and place, computed number by number."""
    dates = np.array([["2020-01-15", "2020-08-15"]], dtype="datetime64[D]")
    from olmoearth_core.models.batch import check

    batch = check(
        cubes((S2,), 1, 2, 8, 16), dates, None, None, patch_size=4, resolution=20.0, allowed=nano.modalities
    )  # fmt: skip
    x = torch.zeros(2, 2, 4, 5, 128)
    with torch.no_grad():
        added = nano.tokenizer.encode(S2, x, batch, None)
    slot, row, col, month, n = 1, 1, 3, 7, 32
    wave = [math.sin(2 * math.pi * month / 12)] * (n // 2) + [math.cos(2 * math.pi * month / 12)] * (n // 2)

    def sines(position: float, size: int) -> list[float]:
        angles = [position / 10000 ** (i / (2 * size)) for i in range(size // 2)]
        return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]

    step = 20.0 * 4 / 10  # metres of a patch, in units of 10 m
    expected = [*sines(slot, n), *wave, *sines(col * step, n // 2), *sines(row * step, n // 2)]
    np.testing.assert_allclose(added[slot, row, col, 2, n:].numpy(), expected, atol=1e-5)
    assert torch.equal(added[slot, row, col, 2, :n], nano.tokenizer.channel[S2][2])


def bicubic(n: int, m: int) -> np.ndarray:
    """(m, n): weights of reducing a line of n to m pixels, by Keys' cubic (a = -1/2) stretched over the reduction."""
    scale = n / m
    rows = np.zeros((m, n))
    for i in range(m):
        distance = np.abs((np.arange(n) + 0.5 - (i + 0.5) * scale) / scale)
        near, far = 1.5 * distance**3 - 2.5 * distance**2 + 1, -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
        rows[i] = np.where(distance <= 1, near, np.where(distance < 2, far, 0))
    return rows / rows.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("patch", range(1, 8))
def test_weights_are_resized_by_the_pseudo_inverse(patch: int) -> None:
    """The two-dimensional resizing is the Kronecker product of two of lines; so is its pseudo-inverse."""
    line = bicubic(8, patch)
    expected = np.linalg.pinv(np.kron(line, line))  # (64, p * p)
    np.testing.assert_allclose(resize_weights(8, patch, torch.device("cpu")).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("patch", [1, 3, 4, 7])
def test_a_reduced_patch_gives_what_it_gave_before(patch: int) -> None:
    """What the pseudo-inverse is for; it holds for patches made of what reducing keeps."""
    torch.manual_seed(0)
    embedding = FlexiblePatchEmbedding(2, named("galileo-nano"))
    line = bicubic(8, patch)
    reduce = torch.as_tensor(np.kron(line, line))  # (p * p, 64)
    large = torch.randn(1, 2, patch**2, dtype=torch.float64) @ reduce
    small = large @ reduce.mT
    with torch.no_grad():
        found = embedding(small.unflatten(-1, (patch, patch)).float(), patch)
        expected = embedding(large.unflatten(-1, (8, 8)).float(), 8)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_step_of_training_at_one_patch_size_is_seen_at_the_others(nano: Galileo) -> None:
    inputs, dates = cubes((S2,), 1, 1, 8, 8), days(1, 1)
    encoder = build_encoder("galileo-nano", seed=3)
    before = {p: encode(encoder, inputs, dates, patch_size=p).map() for p in (2, 4, 8)}
    encoder.encode(inputs, dates, patch_size=4).map().square().mean().backward()
    stored = dict(encoder.named_parameters())[f"tokenizer.embed.{S2}.0.proj.weight"]
    assert stored.grad is not None
    assert stored.grad.any()
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.grad is not None:
                parameter.data.sub_(parameter.grad)  # as averaged weights are put in: torch counts no version of it
    for p, was in before.items():
        assert not torch.equal(encode(encoder, inputs, dates, patch_size=p).map(), was)


def test_normalised_values_are_standard_scores(nano: Galileo) -> None:
    """mean - 2 std is 0, mean + 2 std is 1; nothing is clipped."""
    bands = STATISTICS[S2]
    cube = np.array([[bands[b].mean + k * bands[b].std for b in ORDER] for k in (-2, 0, 2, 4)])[:, :, None, None]
    image = nano.tokenizer.scale(MODALITIES[S2], torch.as_tensor(cube), ORDER)
    np.testing.assert_allclose(image[..., 0, 0], np.repeat([[0], [0.5], [1], [1.5]], 10, axis=1), atol=1e-6)


# --- shapes and gaps --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", [1, 2, 3, 8])
def test_a_window_need_not_be_square(patch: int) -> None:
    """Every token of a strip is what it is in the square whose other half is missing."""
    encoder = build_encoder("galileo-nano", seed=3)
    edge = 4 * patch
    inputs, dates = cubes((S2, S1), 2, 2, edge, edge), days(2, 2)
    upper = np.zeros((2, 2, edge, edge), bool)
    upper[:, :, : edge // 2] = True
    strip = encode(encoder, {m: x[:, :, :, : edge // 2] for m, x in inputs.items()}, dates, patch_size=patch)
    square = encode(encoder, inputs, dates, dict.fromkeys((S2, S1), upper), patch_size=patch)
    assert strip.map().shape == (2, 128, 2, 4)
    for m in (S2, S1):
        torch.testing.assert_close(strip.tokens[m], square.tokens[m][:, :, :2], atol=1e-5, rtol=0)


def test_series_longer_than_the_published_table_are_encoded(nano: Galileo) -> None:
    """The original has a table of 24 time slots; the formula it was made by goes on."""
    assert encode(nano, cubes((S2,), 1, 30, 8, 8), days(1, 30, every=12), patch_size=8).map().isfinite().all()


# --- bands ------------------------------------------------------------------------------------------------------------


def supply(bands: tuple[str, ...], seed: int = 0) -> dict[str, Any]:
    """A Sentinel-2 cube of `bands` alone, as arguments of `encode`."""
    every = MODALITIES[S2].band_names
    cube = cubes((S2,), 1, 2, 8, 8, seed=seed)[S2][:, :, [every.index(b) for b in bands]]
    return {"inputs": {S2: cube}, "dates": days(1, 2), "bands": {S2: bands}}


def test_bands_that_it_does_not_read_change_nothing(nano: Galileo) -> None:
    without = encode(nano, **supply(ORDER))
    for extra in (("B01", "B09"), ("B09",)):
        assert torch.equal(encode(nano, **supply((*extra, *ORDER))).map(), without.map())


def test_a_band_set_of_which_no_band_is_supplied_is_absent(nano: Galileo) -> None:
    some = encode(nano, **supply(("B02", "B03", "B04", "B08")))
    assert some.present[S2].flatten(0, 3).all(dim=0).tolist() == [True, False, True, False, False]
    assert not some.tokens[S2][..., [1, 3, 4], :].any()
    torch.testing.assert_close(some.map(), some.tokens[S2][..., [0, 2], :].mean(dim=(1, 4)).permute(0, 3, 1, 2))
    changed = encode(nano, **supply(("B02", "B03", "B04", "B08", "B11")))
    assert not torch.allclose(changed.tokens[S2][..., 0, :], some.tokens[S2][..., 0, :])  # what is there is seen


def test_a_lacking_band_takes_the_standard_score_of_its_nearest_neighbour(nano: Galileo) -> None:
    """B02 of B03, B05 and B07 of B06, B12 of B11; and vh of vv, though radar has no wavelength."""
    supplied = ("B03", "B04", "B06", "B11", "B01")
    every, statistics = MODALITIES[S2].band_names, STATISTICS[S2]
    cube = cubes((S2,), 1, 2, 8, 8)[S2].astype(np.float64)
    full = cube.copy()
    for band, source in (("B02", "B03"), ("B05", "B06"), ("B07", "B06"), ("B12", "B11")):
        score = (cube[:, :, every.index(source)] - statistics[source].mean) / statistics[source].std
        full[:, :, every.index(band)] = statistics[band].mean + score * statistics[band].std
    read = tuple(b for b in ORDER if b not in ("B08", "B8A"))
    lacking, whole = (
        encode(nano, {S2: x[:, :, [every.index(b) for b in bands]]}, days(1, 2), bands={S2: bands})
        for x, bands in ((cube, supplied), (full, read))
    )
    assert torch.equal(lacking.present[S2], whole.present[S2])
    torch.testing.assert_close(lacking.map(), whole.map(), atol=1e-5, rtol=0)

    radar = cubes((S1,), 1, 2, 8, 8)[S1].astype(np.float64)
    vv, vh = STATISTICS[S1].values()
    both = np.stack([radar[:, :, 0], vh.mean + (radar[:, :, 0] - vv.mean) / vv.std * vh.std], axis=2)
    one = encode(nano, {S1: radar[:, :, :1]}, days(1, 2), bands={S1: ["vv"]})
    torch.testing.assert_close(one.map(), encode(nano, {S1: both}, days(1, 2)).map(), atol=1e-5, rtol=0)


def test_vv_and_vh_are_not_taken_for_each_other(nano: Galileo) -> None:
    radar = cubes((S1,), 1, 2, 8, 8)[S1]
    whole = encode(nano, {S1: radar}, days(1, 2)).map()
    spoiled = radar.copy()
    spoiled[:, :, 1] += 3
    assert not torch.allclose(encode(nano, {S1: spoiled}, days(1, 2)).map(), whole)


def test_bands_of_which_none_is_read_are_refused(nano: Galileo) -> None:
    with pytest.raises(EncoderInputError, match=r"sentinel2_l2a: only B09, B01 supplied.*it reads B02, B03"):
        encode(nano, **supply(("B09", "B01")))


def test_landsat_is_refused(nano: Galileo) -> None:
    with pytest.raises(EncoderInputError, match="'landsat' is no modality of this encoder"):
        encode(nano, cubes(("landsat",), 1, 1, 8, 8), days(1, 1))


def test_the_vegetation_index_is_entered_as_it_is_and_needs_both_bands() -> None:
    encoder = build_encoder("galileo-nano-ndvi", seed=3)
    assert isinstance(encoder, Galileo)
    assert encoder.config.band_sets[S2] == (*BAND_SETS[S2], ("NDVI",))
    pixels = torch.tensor([[400, 1200], [0, 0], [900, 100]], dtype=torch.int32)[:, :, None, None]
    image = encoder.tokenizer.scale(MODALITIES[S2], pixels, ("B04", "B08"))
    np.testing.assert_allclose(image[:, -1, 0, 0], [0.5, 0.0, -0.8], atol=1e-6)
    assert encode(encoder, **supply(ORDER)).present[S2].all()
    present = encode(encoder, **supply(("B02", "B08"))).present[S2].flatten(0, 3)
    assert present.all(dim=0).tolist() == [True, False, True, False, False, False]


# --- what frozen features are worth -----------------------------------------------------------------------------------


def eurosat(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (200, 1, 10, 64, 64) in the order of `ORDER`, and class names."""
    import csv

    import rasterio

    stored = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
    rows = list(csv.DictReader((folder / "labels.csv").read_text().splitlines()))
    channels = [stored.index(band) + 1 for band in ORDER]
    images = []
    for row in rows:
        with rasterio.open(folder / row["file"]) as file:
            images.append(file.read(channels))
    return np.stack(images)[:, None], np.array([row["class"] for row in rows])


def probes(encoder: Encoder, images: np.ndarray, classes: np.ndarray) -> tuple[float, float]:
    """Accuracy of 5 nearest neighbours and of logistic regression on frozen means of tokens, in five folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    dates = np.full((20, 1), np.datetime64("2020-07-01", "D"))
    parts = [
        mean_of_tokens(encode(encoder, {S2: images[i : i + 20]}, dates, patch_size=8, bands={S2: ORDER}))
        for i in range(0, len(images), 20)
    ]
    features = torch.cat(parts).numpy()
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    models = (KNeighborsClassifier(5), make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000)))
    knn, linear = (cross_val_score(model, features, classes, cv=folds).mean() for model in models)
    return float(knn), float(linear)


@pytest.mark.verify
def test_frozen_features_tell_land_cover_apart(
    real_data: Path, weights: Path, record_property: Callable[[str, object], None]
) -> None:
    """Known: 0.765 and 0.845 (0.465 and 0.69 with random weights); a score of 200 images is uncertain by 0.03."""
    images, classes = eurosat(real_data / "eurosat_200")
    knn, linear = probes(load_encoder(str(weights), precision="fp32", device="cpu"), images, classes)
    untrained = probes(build_encoder("galileo-nano"), images, classes)
    record_property("pretrained", {"knn": knn, "linear": linear})
    record_property("random", dict(zip(("knn", "linear"), untrained, strict=True)))
    assert knn == pytest.approx(0.765, abs=0.06)
    assert linear == pytest.approx(0.845, abs=0.03)
    assert knn > untrained[0] + 0.1
    assert linear > untrained[1]
