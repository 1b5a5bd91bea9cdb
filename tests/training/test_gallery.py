"""The windows worth looking at are chosen exactly, and what is kept for them stays small."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pytest
from judging import LAND_COVER, TREES, Seen, land_cover, tree_cover
from matplotlib.image import imread

from olmoearth_core.labels.windows import IGNORE
from olmoearth_core.training import gallery
from olmoearth_core.training.answers import Answer
from olmoearth_core.training.figures import image, scale_bar, worst_figure
from olmoearth_core.training.gallery import EDGE, Gallery, Look, Picture, behind, pictures, strip, worst
from olmoearth_core.training.tally import ClassTally, Counter, tally


def _stream(answer: Answer, size: int) -> list[Answer]:
    cuts = [slice(first, first + size) for first in range(0, len(answer.rows), size)]
    return [
        Answer(answer.rows[c], answer.strata[c], None if answer.values is None else answer.values[c], answer.scores[c])
        for c in cuts
    ]


@pytest.mark.parametrize(("answer", "task"), [(land_cover(900, size=4), LAND_COVER), (tree_cover(900, size=4), TREES)])
def test_what_is_chosen_is_kept_and_the_rest_goes(
    answer: Answer, task: gallery.Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "KEPT", 20)
    counter = Counter(task)  # type: ignore[arg-type]
    kept, most = Gallery(counter), 0
    for part in _stream(answer, 10):
        counter.add(part)
        kept.add(part)
        most = max(most, len(kept.looks))
    judged = counter.tally()
    chosen = set(worst(judged))
    if isinstance(judged, ClassTally):
        chosen |= {row for rows in behind(judged).values() for row in rows}
    assert chosen <= kept.looks.keys()
    assert most < 250
    row = worst(judged)[0]
    truth = answer.strata[row] if answer.values is None else answer.values[row]
    said = answer.scores[row].argmax(axis=0) if answer.values is None else answer.scores[row, 0]
    assert np.array_equal(kept.looks[row].truth, truth, equal_nan=answer.values is not None)
    assert np.array_equal(kept.looks[row].said, said)


def test_the_worst_come_first_and_cells_name_the_windows_with_most_of_them() -> None:
    judged = tally([land_cover(40)], LAND_COVER)
    assert isinstance(judged, ClassTally)
    rows = worst(judged, 5)
    assert list(judged.loss[rows]) == sorted(judged.loss, reverse=True)[:5]
    cells = behind(judged)
    assert set(cells) == {(t, p) for t in range(3) for p in range(3)}
    for (t, p), found in cells.items():
        counts = judged.confusion[:, t, p]
        assert list(counts[found]) == sorted(counts, reverse=True)[:6]
    few = behind(judged, most=7)
    assert sum(map(len, few.values())) == 7
    assert all(t != p for t, p in few)  # errors come before what is right


def test_large_windows_are_kept_as_small_pictures() -> None:
    counter = Counter(LAND_COVER)
    kept = Gallery(counter)
    answer = land_cover(1, size=300)
    counter.add(answer)
    kept.add(answer)
    assert max(kept.looks[0].truth.shape) <= EDGE

    def read(rows: Sequence[int]) -> list[Seen]:
        data = np.full((2, 3, 300, 300), 700, np.uint16)
        return [Seen({"sentinel2_l2a": data}, {"sentinel2_l2a": np.ones((2, 300, 300), bool)}, {}) for _ in rows]

    seen = pictures(read, [0], {"sentinel2_l2a": ["B02", "B03", "B04"]})  # type: ignore[arg-type]
    assert seen[0].colour.shape[:2] == kept.looks[0].truth.shape


def test_pictures_show_true_colours_of_the_clearest_date_in_one_stretch() -> None:
    def read(rows: Sequence[int]) -> list[Seen]:
        samples = []
        for row in rows:
            cube = np.zeros((2, 4, 2, 2), np.uint16)
            cube[1] = np.array([100, 200, 300, 4000])[:, None, None] * (1 + row)
            valid = np.array([[[True, False], [False, False]], [[True, True], [True, False]]])
            samples.append(Seen({"sentinel2_l2a": cube}, {"sentinel2_l2a": valid}, {}))
        return samples

    seen = pictures(read, [0, 1], {"sentinel2_l2a": ["B02", "B03", "B04", "B08"]})  # type: ignore[arg-type]
    assert (seen[0].colour[0, 0] == 0).all()
    assert (seen[1].colour[0, 0] == 255).all()
    assert (seen[0].colour[1, 1] == 200).all()  # nothing seen there
    assert seen[0].seen.tolist() == [[True, True], [True, False]]
    radar = {"sentinel1": ["vv"]}

    def dark(rows: Sequence[int]) -> list[Seen]:
        cube, valid = np.zeros((1, 1, 2, 2), np.float32), np.zeros((1, 2, 2), bool)
        return [Seen({"sentinel1": cube}, {"sentinel1": valid}, {}) for _ in rows]

    assert (pictures(dark, [0], radar)[0].colour == 200).all()  # type: ignore[arg-type]


def test_a_strip_shows_picture_label_and_answer() -> None:
    colours = np.full((256, 3), 255, np.uint8)
    colours[0], colours[1] = (10, 20, 30), (40, 50, 60)
    look = Look(np.array([[0, IGNORE]], np.uint8), np.array([[1, 0]], np.uint8))
    found = strip(Picture(np.zeros((1, 2, 3), np.uint8), np.array([[True, True]])), look, colours)
    assert found.shape == (32, 3 * 64 + 2 * 3, 3)  # each pixel is 32 x 32
    assert found[0, 67].tolist() == [10, 20, 30]
    assert found[31, 67 + 32].tolist() == [255, 255, 255]
    assert found[0, 2 * 67].tolist() == [40, 50, 60]
    whole = Look(np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8))
    assert strip(Picture(np.zeros((80, 80, 3), np.uint8), np.ones((80, 80), bool)), whole, colours).shape == (80, 80, 3)
    assert image(found).startswith(b"\x89PNG")


def test_what_was_said_of_ground_that_nobody_saw_is_not_shown() -> None:
    colours = np.full((256, 3), 255, np.uint8)
    colours[1] = 50
    look = Look(np.array([[1, IGNORE]], np.uint8), np.array([[1, 1]], np.uint8))
    found = strip(Picture(np.zeros((1, 2, 3), np.uint8), np.array([[True, False]])), look, colours)
    said = found[0, -64:]
    assert (said[:32] == 50).all()
    assert (said[32:] == gallery.UNSEEN).all()


@pytest.mark.parametrize(
    ("metres", "bar"),
    [(320, (100, "100 m")), (640, (200, "200 m")), (1250, (500, "500 m")), (2500, (1000, "1 km")), (160, (50, "50 m"))],
)
def test_a_scale_bar_is_a_round_length(metres: float, bar: tuple[float, str]) -> None:
    assert scale_bar(metres) == bar


def test_the_worst_windows_have_a_scale_bar_and_a_legend() -> None:
    dark = [np.full((64, 198, 3), 90, np.uint8)] * 4

    def drawn(*legend: tuple[str, str]) -> np.ndarray:
        return (imread(io.BytesIO(worst_figure(dark, ["a"] * 4, "The worst", metres=640, legend=legend))) * 255).round()

    page = drawn(("#ff0000", "fire"), ("#0000ff", "lake"))[..., :3]
    assert (page == (255, 0, 0)).all(axis=-1).sum() > 50
    assert (page == (0, 0, 255)).all(axis=-1).sum() > 50
    grey = np.argwhere((drawn()[..., :3] == 90).all(axis=-1))
    first = drawn()[grey[:, 0].min() :, grey[:, 1].min() :, :3]
    height = int((first[:, 1] == 90).all(axis=-1).argmin())
    white = (first[:height, :height] == 255).all(axis=-1).sum(axis=1).max()
    assert white / height == pytest.approx(200 / 640, abs=0.06)
