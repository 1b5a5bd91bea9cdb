from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_array_equal

from olmoearth_core.errors import SourceError
from olmoearth_core.importing.values import Encoding, cloud_cover, to_classes, to_stored


@given(arrays(np.uint16, (4, 5), elements=st.integers(0, 65535)), st.sampled_from([None, 0.0, 7.0]))
def test_whole_numbers_stay_what_they_are(pixels: np.ndarray, nodata: float | None) -> None:
    stored = to_stored(pixels, Encoding(nodata=nodata), "x").values
    missing = np.zeros(pixels.shape, bool) if nodata is None else pixels == nodata
    assert_array_equal(stored == 0, missing)
    assert_array_equal(stored[~missing], np.maximum(pixels[~missing], 1))


@given(arrays(np.float32, (3, 4), elements=st.floats(-0.25, 1.5, width=32) | st.just(float("nan"))))
def test_fractions_are_reflectance_and_nan_is_no_data(pixels: np.ndarray) -> None:
    stored = to_stored(pixels, Encoding(), "x")
    valid = np.isfinite(pixels)
    assert_array_equal(stored.values > 0, valid)
    assert np.abs(stored.values[valid] - np.maximum(pixels[valid].astype(float) * 10000, 1)).max(initial=0) <= 1
    assert stored.notes


def test_scale_and_offset_of_baseline_0400() -> None:
    pixels = np.array([[0, 900, 1000, 1001, 11000]], np.uint16)
    stored = to_stored(pixels, Encoding(scale=0.0001, offset=-0.1, nodata=0), "x")
    assert stored.values.tolist() == [[0, 1, 1, 1, 10000]]
    assert stored.dark == 2


def test_zeros_are_dark_ground_unless_nodata_says_so() -> None:
    pixels = np.array([[0, 5]], np.int16)
    assert to_stored(pixels, Encoding(), "x").values.tolist() == [[1, 5]]
    assert to_stored(pixels, Encoding(), "x").dark == 1
    assert to_stored(pixels, Encoding(nodata=0), "x").values.tolist() == [[0, 5]]
    assert to_stored(np.array([[-9999, 0]], np.int16), Encoding(nodata=-9999), "x").values.tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("pixels", "encoding", "words"),
    [
        (np.array([[3012.5]], np.float32), Encoding(), "--scale 0.0001"),
        (np.array([[200]], np.uint8), Encoding(), "8 bits"),
        (np.array([[1 + 1j]]), Encoding(), "complex"),
        (np.array([[5000]], np.uint16), Encoding(scale=0.01), "more than can be"),
    ],
    ids=["fractions that are no reflectance", "a picture", "complex", "a wrong scale"],
)
def test_values_of_unknown_meaning(pixels: np.ndarray, encoding: Encoding, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        to_stored(pixels, encoding, "x.tif")


def test_fractions_x_10000_by_word() -> None:
    assert to_stored(np.array([[3012.4, np.nan]], np.float32), Encoding(scale=1e-4), "x").values.tolist() == [[3012, 0]]


def test_a_scene_classification() -> None:
    classes, unknown = to_classes(np.array([[0, 4, 9], [10, 12, 255]], np.uint16), None, "SCL")
    assert classes.dtype == np.uint8
    assert classes.tolist() == [[0, 4, 9], [10, 0, 0]]
    assert unknown == 2
    assert cloud_cover(classes) == 66.67
    assert cloud_cover(np.zeros((2, 2), np.uint8)) is None
    with pytest.raises(SourceError, match="fractions"):
        to_classes(np.array([[4.5]]), None, "SCL")
