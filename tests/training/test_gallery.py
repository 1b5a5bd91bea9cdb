"""The windows worth looking at are chosen exactly, and what is kept for them stays small."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from judging import LAND_COVER, TREES, Seen, land_cover, tree_cover

from olmoearth_core.labels.windows import IGNORE
from olmoearth_core.training import gallery
from olmoearth_core.training.answers import Answer
from olmoearth_core.training.figures import image
from olmoearth_core.training.gallery import EDGE, Gallery, Look, behind, pictures, strip, worst
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
    assert seen[0].shape[:2] == kept.looks[0].truth.shape


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
    assert (seen[0][0, 0] == 0).all()
    assert (seen[1][0, 0] == 255).all()
    assert (seen[0][1, 1] == 200).all()  # nothing seen there
    radar = {"sentinel1": ["vv"]}

    def dark(rows: Sequence[int]) -> list[Seen]:
        cube, valid = np.zeros((1, 1, 2, 2), np.float32), np.zeros((1, 2, 2), bool)
        return [Seen({"sentinel1": cube}, {"sentinel1": valid}, {}) for _ in rows]

    assert (pictures(dark, [0], radar)[0] == 200).all()  # type: ignore[arg-type]


def test_a_strip_shows_picture_label_and_answer() -> None:
    colours = np.full((256, 3), 255, np.uint8)
    colours[0], colours[1] = (10, 20, 30), (40, 50, 60)
    look = Look(np.array([[0, IGNORE]], np.uint8), np.array([[1, 0]], np.uint8))
    found = strip(np.zeros((1, 2, 3), np.uint8), look, colours)
    assert found.shape == (32, 3 * 64 + 2 * 3, 3)  # each pixel is 32 x 32
    assert found[0, 67].tolist() == [10, 20, 30]
    assert found[31, 67 + 32].tolist() == [255, 255, 255]
    assert found[0, 2 * 67].tolist() == [40, 50, 60]
    whole = Look(np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8))
    assert strip(np.zeros((80, 80, 3), np.uint8), whole, colours).shape == (80, 80, 3)
    assert image(found).startswith(b"\x89PNG")
