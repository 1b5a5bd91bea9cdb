"""Splits that keep apart: buffers, blocks that are dealt once, dates, the partner's own word, and what would leak."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from rasters import CRS
from shore import DATE, clear_scene, halves, run_to_dataset, square, write_labels, write_shore

from olmoearth_core.dataset.dataset import Dataset, open_dataset
from olmoearth_core.errors import ExpectationError, LabelError, ProjectError
from olmoearth_core.framing import PointInTime
from olmoearth_core.grid import Grid
from olmoearth_core.labels import leakage
from olmoearth_core.labels.frozen import freeze_blocks, read_blocks
from olmoearth_core.labels.labels import read_labels
from olmoearth_core.labels.leakage import OVERLAP, gaps, measure, shared_imagery, too_near
from olmoearth_core.labels.split import SPLITS, assign_splits
from olmoearth_core.progress import Silent
from olmoearth_core.project import Project, SplitConfig

GRID = Grid(CRS, 10.0)
places = st.lists(st.tuples(st.integers(-60, 60), st.integers(-60, 60)), min_size=2, max_size=30)


class Listener(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def gap_by_hand(one: Any, other: Any) -> float:
    """Metres between two windows, from their pixels."""
    across = max(other.column - one.column - one.width, one.column - other.column - other.width)
    down = max(other.row - one.row - one.height, one.row - other.row - other.height)
    if across < 0 and down < 0:
        return OVERLAP
    return float(np.hypot(max(across, 0), max(down, 0)) * 10)


@given(places, st.integers(0, 2**31), st.sampled_from([0.0, 10.0, 75.0, 300.0]))
def test_what_stays_is_apart(corners: list[tuple[int, int]], seed: int, buffer: float) -> None:
    boxes = [GRID.box(column, row, 8, 8) for column, row in corners]
    splits = np.random.default_rng(seed).choice(SPLITS, len(boxes)).tolist()
    gone = too_near(boxes, splits, buffer)
    left = [(box, split) for box, split, lost in zip(boxes, splits, gone, strict=True) if not lost]
    for one, split in left:
        for other, of_other in left:
            if split != of_other:
                assert gap_by_hand(one, other) >= (buffer if "train" in (split, of_other) else 0)
    # training loses first, the test loses nothing; and nobody goes without a reason
    assert not any(lost for split, lost in zip(splits, gone, strict=True) if split == "test")
    for box, split, lost in zip(boxes, splits, gone, strict=True):
        others = [b for b, s in left if SPLITS.index(s) > SPLITS.index(split)]
        reason = any(gap_by_hand(box, other) < (buffer if split == "train" else 0) for other in others)
        assert lost == reason


@given(places, st.integers(0, 2**31))
def test_gaps_are_those_of_the_nearest(corners: list[tuple[int, int]], seed: int) -> None:
    boxes = [GRID.box(column, row, 8, 8) for column, row in corners]
    splits = np.random.default_rng(seed).choice(SPLITS, len(boxes)).tolist()
    for box, split, found in zip(boxes, splits, gaps(boxes, splits), strict=True):
        others = [gap_by_hand(box, b) for b, s in zip(boxes, splits, strict=True) if s != split]
        assert found == pytest.approx(min(others, default=np.inf))


def test_imagery_is_shared_where_place_and_time_are() -> None:
    here, beside, far = (GRID.box(column, 0, 8, 8) for column in (0, 8, 90))
    spring, soon, autumn = date(2024, 5, 1), date(2024, 5, 9), date(2024, 9, 1)
    boxes = [here, here, beside, far, here]
    splits = ["train", "test", "test", "test", "validation"]
    framing = PointInTime(kind="point_in_time", days=20)
    shared = shared_imagery(boxes, splits, [spring, soon, soon, soon, autumn], framing.spans)
    assert shared.tolist() == [True, True, False, False, False]


def test_labels_in_several_splits_are_counted(tmp_path: Path) -> None:
    labels = read_labels(write_shore(tmp_path, scenes=[]))
    corner = labels.grid.around(tuple(square(0, 0, 10, 10).bounds))
    boxes = [labels.grid.box(corner.column + 20 * k, corner.row - 30, 16, 16) for k in (0, 1, 3)]
    framing = PointInTime(kind="point_in_time")
    day = date.fromisoformat(DATE)
    found = measure(boxes, ["train", "test", "test"], [day] * 3, [labels], framing.spans)
    assert (found.shared_labels, found.overlapping_windows) == (1, 0)  # land is in two, water only in the test
    assert found.least_distance == {"train and validation": None, "train and test": 40.0, "validation and test": None}


@given(st.integers(0, 2**31), st.integers(0, 99))
def test_blocks_keep_their_split_as_labels_grow(seed: int, split_seed: int) -> None:
    random = np.random.default_rng(seed)
    amounts = {(int(i), 0): random.integers(0, 50, 3) for i in random.permutation(60)}
    config = SplitConfig(seed=split_seed)
    before = assign_splits(dict(list(amounts.items())[:30]), config, 64)
    after = assign_splits(amounts, config, 64, before.splits)
    assert after.splits.keys() == amounts.keys()
    assert {block: after.splits[block] for block in before.splits} == before.splits
    only_new = assign_splits(dict(list(amounts.items())[30:]), config, 64, before.splits)
    assert {block: only_new.splits[block] for block in before.splits} == before.splits  # old labels that are gone


def grown(folder: Path, project: Project, reach: float) -> None:
    del project
    labels = [(square(0, 0, reach, 960), "land", DATE), (square(reach, 0, reach + 100, 960), "water", DATE)]
    write_labels(folder / "labels/shore.geojson", labels)


def test_the_table_of_blocks_is_frozen_and_only_grows(tmp_path: Path) -> None:
    project = write_shore(tmp_path, scenes=[])
    grown(tmp_path, project, 400)
    listener = Listener()
    path = freeze_blocks(project, listener)
    first, content = read_blocks(path), path.read_text()
    assert listener.notes == [f"{len(first.splits)} blocks were given a split, kept in splits/{path.name}"]
    assert freeze_blocks(project, listener) == path
    assert path.read_text() == content
    grown(tmp_path, project, 800)
    assert freeze_blocks(project, listener) == path
    second = read_blocks(path)
    assert first.splits.items() < second.splits.items()
    assert f"the {len(first.splits)} old ones in splits/{path.name} keep theirs" in listener.notes[1]
    grown(tmp_path, project, 300)  # labels that are taken away take no block away
    freeze_blocks(project, listener)
    assert read_blocks(path) == second


def test_other_settings_deal_anew_and_say_so(tmp_path: Path) -> None:
    before = freeze_blocks(write_shore(tmp_path, scenes=[]), Silent())
    listener = Listener()
    after = freeze_blocks(write_shore(tmp_path, {"dataset.split": {"block_size": 160, "seed": 7}}, scenes=[]), listener)
    assert before != after
    assert before.exists()
    assert f"seed or grid are new: all {len(read_blocks(after).splits)} blocks" in listener.notes[0]
    assert before.name in listener.notes[0]


@pytest.mark.parametrize("content", ["", "{}", '{"block_size": 16, "blocks": [[0, 0, "exam"]]}', "[1]"])
def test_a_damaged_table_is_told(tmp_path: Path, content: str) -> None:
    project = write_shore(tmp_path, scenes=[])
    path = freeze_blocks(project, Silent())
    path.write_text(content)
    with pytest.raises(ProjectError, match=r"is no table of blocks.*Restore it from git, or delete it"):
        freeze_blocks(project, Silent())


def labels_json(dataset: Dataset) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((dataset.folder / "labels.json").read_text())
    return found


def test_a_buffer_takes_training_windows_and_lists_them(tmp_path: Path) -> None:
    split = {"block_size": 320, "buffer": 150.0}
    dataset = open_dataset(run_to_dataset(write_shore(tmp_path, {"dataset.split": split})).folder)
    reasons = {item["reason"] for item in json.loads((dataset.folder / "left_out.json").read_text())}
    assert reasons == {"less than 150 m from a block or window of another split (dataset.split.buffer)"}
    least = labels_json(dataset)["leakage"]["least_distance"]
    assert min(least["train and test"], least["train and validation"]) >= 150
    assert least["validation and test"] >= 0
    table = read_blocks(next((tmp_path / "splits").glob("*.json")))
    for k in range(len(dataset)):
        assert table.split_of(dataset.box(k)) == dataset.windows["split"].iloc[k]


def test_splits_in_time(tmp_path: Path) -> None:
    days = [DATE, "2024-07-01", "2024-09-01"]
    scenes = [clear_scene(day, day, seed=k) for k, day in enumerate(days)]
    split = {"kind": "time", "validation_from": "2024-07-01", "test_from": "2024-08-15"}
    project = write_shore(tmp_path, {"dataset.split": split}, scenes=scenes, labels=halves(*days))
    result = run_to_dataset(project)
    table = open_dataset(result.folder).windows
    assert {str(day): set(part["split"]) for day, part in table.groupby("date")} == {
        DATE: {"train"}, "2024-07-01": {"validation"}, "2024-09-01": {"test"},
    }  # fmt: skip
    assert not (tmp_path / "splits").exists()
    assert result.manifest.summary["warnings"] == []
    assert labels_json(open_dataset(result.folder))["leakage"]["shared_imagery"] == 0


def test_training_windows_that_show_the_days_of_the_test_are_left_out(tmp_path: Path) -> None:
    days = ["2024-03-01", DATE, "2024-05-11"]
    scenes = [clear_scene(day, day, seed=k) for k, day in enumerate(days)]
    changes = {
        "dataset.split": {"kind": "time", "test_from": "2024-05-05"},
        "imagery.framing": {"kind": "point_in_time", "days": 30},
    }
    result = run_to_dataset(write_shore(tmp_path, changes, scenes=scenes, labels=halves(*days)))
    dataset = open_dataset(result.folder)
    assert {str(day) for day in dataset.windows["date"][dataset.indices("train")]} == {"2024-03-01"}
    assert labels_json(dataset)["leakage"]["shared_imagery"] == 0
    (reason,) = result.manifest.summary["left_out"]
    assert reason.startswith("shows ground and days that a window of another split shows as well")


def write_named(path: Path, splits: list[str]) -> None:
    """Strips of 160 m, land below water, each with a split of its own."""
    strips = [square(160 * k, y, 160 * k + 160, y + 480) for k in range(len(splits)) for y in (0, 480)]
    table = {"class": ["land", "water"] * len(splits), "start_datetime": DATE, "split": np.repeat(splits, 2)}
    gpd.GeoDataFrame(table, geometry=strips, crs=CRS).to_file(path)


def test_splits_that_the_partner_names(tmp_path: Path) -> None:
    changes = {"dataset.split": {"kind": "property"}, "labels.files": ["labels/named.gpkg"]}
    project = write_shore(tmp_path, changes)
    write_named(tmp_path / "labels/named.gpkg", ["train", "Training", "val", "test", "train", "train"])
    dataset = open_dataset(run_to_dataset(project).folder)
    assert set(dataset.windows["split"]) == set(SPLITS)
    owner = np.array(["train", "train", "validation", "test", "train", "train"])
    for k in range(len(dataset)):
        box, target = dataset.box(k), dataset.read([k])[0].target
        strip = ((box.centres[0] - square(0, 0, 1, 1).bounds[0]) // 160).astype(int)
        known = (target != 255).any(axis=0)
        assert known.any()
        assert set(owner[strip[known]]) == {dataset.windows["split"].iloc[k]}  # it learns from its own labels only
    leak = labels_json(dataset)["leakage"]
    assert (leak["overlapping_windows"], leak["shared_labels"]) == (0, 0)


@pytest.mark.parametrize(
    ("splits", "word"),
    [(["train", "exam"], "feature 2 has the split 'exam'; allowed are train"), (None, "no property")],
)
def test_a_split_that_is_none(tmp_path: Path, splits: list[str] | None, word: str) -> None:
    changes = {"dataset.split": {"kind": "property"}}
    project = write_shore(tmp_path, changes | ({"labels.files": ["labels/named.gpkg"]} if splits else {}), scenes=[])
    if splits:
        write_named(tmp_path / "labels/named.gpkg", splits)
    with pytest.raises(LabelError, match=word):
        read_labels(project)


def test_centred_windows_that_overlap_do_not_leak(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    points = [shapely.Point(*xy) for xy in random.uniform((0, 0), (960, 960), (150, 2))]
    left, bottom, _, _ = square(0, 0, 1, 1).bounds
    points = [shapely.affinity.translate(point, left, bottom) for point in points]
    labels = [(p, "land" if p.x < left + 480 else "water", DATE) for p in points]
    changes = {"labels.windows": "centred", "dataset.split": {"block_size": 320}}
    dataset = open_dataset(run_to_dataset(write_shore(tmp_path, changes, labels=labels)).folder)
    reasons = {item["reason"] for item in json.loads((dataset.folder / "left_out.json").read_text())}
    assert "overlaps a window of another split" in reasons
    assert labels_json(dataset)["leakage"]["overlapping_windows"] == 0
    owner: dict[tuple[int, int], str] = {}
    for k in range(len(dataset)):
        box = dataset.box(k)
        for pixel in np.ndindex(*box.shape):
            place = box.row + pixel[0], box.column + pixel[1]
            assert owner.setdefault(place, dataset.windows["split"].iloc[k]) == dataset.windows["split"].iloc[k]


def test_a_leak_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The leakage test looks at the final table, not at what was meant: without the rule it fails."""
    from olmoearth_core.dataset import preprocess

    monkeypatch.setattr(preprocess, "must_go", lambda windows, *_: np.zeros(len(windows), bool))
    with pytest.raises(ExpectationError, match="a training window is 150 m from windows of other splits"):
        run_to_dataset(write_shore(tmp_path, {"dataset.split": {"block_size": 320, "buffer": 150.0}}))
    assert leakage.OVERLAP < 0
