"""Judging from end to end: metrics, report and figures of all kinds of tasks, on a small training set."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judging import EVENTS, SHORE, TREES, Seen, SomeTask, window
from training_set import write_training_set

from olmoearth_core.dataset.cubes import Truth
from olmoearth_core.dataset.dataset import Dataset, open_dataset
from olmoearth_core.labels.windows import IGNORE
from olmoearth_core.models.card_text import score_lines
from olmoearth_core.training.answers import Answer, Task, window_class
from olmoearth_core.training.baselines import fit_forest
from olmoearth_core.training.judge import judge

SPLITS = ("train",) * 10 + ("validation",) * 6 + ("test",) * 8
COLOURS = {"shore": ["#d8c9a3", "#2c7fb8", "#ffffff"]}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_training_set(tmp_path_factory.mktemp("dataset"), splits=SPLITS))


class Model:
    """Answers with the truth, and errs where a window's own generator says so; remembers what it was asked."""

    def __init__(self, dataset: Dataset, tasks: dict[str, Task], *, errs: float = 0.1, sure: float = 4.0) -> None:
        self.dataset, self.tasks, self.errs, self.sure = dataset, tasks, errs, sure
        self.asked: list[str] = []

    def read(self, rows: Sequence[int]) -> list[Seen]:
        return [window(row) for row in rows]

    def answers(self, split: str) -> Iterator[dict[str, Answer]]:
        self.asked.append(split)
        rows = self.dataset.indices(split)
        for first in range(0, len(rows), 4):
            yield {name: self._part(rows[first : first + 4], name) for name in self.tasks}

    def _part(self, part: list[int], name: str) -> Answer:
        each = [self._answer(row, self.read([row])[0].truths[name], self.tasks[name]) for row in part]
        strata, values, scores = (list(column) for column in zip(*each, strict=True))
        known = values[0] is not None
        return Answer(np.array(part), np.stack(strata), np.stack(values) if known else None, np.stack(scores))

    def _answer(self, row: int, truth: Truth, task: Task) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        random = np.random.default_rng((row, 9))
        if task.kind == "regression":
            assert truth.values is not None
            off = np.nan_to_num(truth.values) + random.normal(0, 100 * self.errs, truth.values.shape)
            return truth.strata, truth.values, off[None].astype(np.float32)
        strata = truth.strata
        if task.kind == "classification":
            strata = np.full((1, 1), window_class(strata), np.uint8)
        wrong = random.random(strata.shape) < self.errs
        said = np.where(wrong, 1 - np.minimum(strata, 1), strata)
        scores = self.sure * (said == np.arange(len(task.strata))[:, None, None])
        return strata, None, scores.astype(np.float32)


def judged(dataset: Dataset, out: Path, tasks: dict[str, Task], **how: float) -> dict[str, Any]:
    model = Model(dataset, tasks, **how)
    found = judge(dataset, tasks, model.answers, out, colours=COLOURS, read=model.read)  # type: ignore[arg-type]
    assert model.asked == ["validation", "test"]  # once each, whatever the number of tasks
    json.dumps(found, allow_nan=False)
    return found


class Links(HTMLParser):
    """Anchors, what leads to them, and what is loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if name := found.get("id"):
            self.ids.add(name)
        if (href := found.get("href")) and href.startswith("#"):
            self.links.add(href[1:])
        elif href:
            self.loaded.append(href)
        if (source := found.get("src")) and not source.startswith("data:image/png;base64,"):
            self.loaded.append(source)


def test_a_segmentation_is_judged_once_and_told_to_people(dataset: Dataset, tmp_path: Path) -> None:
    found = judged(dataset, tmp_path, {"shore": SHORE}, errs=0.1, sure=6.0)
    assert found["kind"] == "segmentation"
    assert found["headline"] == "miou"
    assert found["test"]["windows"] == found["test"]["blocks"] == 8
    assert found["test"]["overall_accuracy"] == pytest.approx(0.9, abs=0.05)
    water = found["test"]["intervals"]["classes"]["water"]["iou"]
    assert water["low"] < found["test"]["classes"]["water"]["iou"] < water["high"]
    assert found["test"]["blocks_with"] == {"land": 8, "water": 8, "snow": 0}
    # a model that is 99 % sure and 90 % right is calibrated by making it less sure
    assert found["calibration"]["temperature"] > 1.5
    assert found["test"]["ece"] < found["test"]["uncalibrated"]["ece"] / 2
    # sets of a model that is right in 90 % and says the same probabilities everywhere: one class, or both
    held = dict(zip(found["sets"]["coverages"], found["sets"]["test"], strict=True))
    assert held[0.5] == pytest.approx(0.9, abs=0.05)
    assert held[0.99] == 1
    # the forest reads the truth off the imagery, and the model does not: it must be told
    baseline = found["test"]["baseline"]
    assert baseline["scores"]["miou"] > found["test"]["miou"]
    assert baseline["verdict"] == "worse"
    assert "not worth its compute" in baseline["sentence"]
    assert baseline["difference"]["miou"]["high"] < 0
    assert {p.name for p in tmp_path.iterdir()} == {"report.html", "confusion.png", "reliability.png", "worst.png"}
    text = (tmp_path / "report.html").read_text()
    page = Links()
    page.feed(text)
    assert page.links
    assert page.links <= page.ids
    assert not page.loaded
    assert "cell-0-1" in page.links  # land taken for water leads to the windows behind it
    assert baseline["sentence"] in text
    assert "20200616_16" in text
    assert re.search(r"2020-06-16, \d+\.\d{4}° N, \d+\.\d{4}° E", text)


def test_a_regression_has_its_errors_and_a_scatter(dataset: Dataset, tmp_path: Path) -> None:
    found = judged(dataset, tmp_path, {"trees": TREES}, errs=0.01)
    assert found["calibration"] is None
    assert found["sets"] is None
    assert found["test"]["rmse"] == pytest.approx(1.0, abs=0.2)
    assert found["test"]["baseline"]["verdict"] == "better"
    assert "of R² (95 % interval" in found["test"]["baseline"]["sentence"]
    assert {p.name for p in tmp_path.iterdir()} == {"report.html", "scatter.png", "worst.png"}
    assert "RMSE (%)" in (tmp_path / "report.html").read_text()


def test_a_classification_shows_windows_with_what_was_said(dataset: Dataset, tmp_path: Path) -> None:
    found = judged(dataset, tmp_path, {"events": EVENTS}, errs=0.2)
    assert found["headline"] == "macro_f1"
    assert found["test"]["pixels"] == 8
    text = (tmp_path / "report.html").read_text()
    assert "labelled fire, predicted fire" in text
    card = "\n".join(score_lines({"chosen_by": "The last.", **found}))
    assert "| windows |" in card  # one class a window: pixels are not counted
    assert "pixels" not in card


def test_further_tasks_are_judged_and_shown_beside_the_main_one(dataset: Dataset, tmp_path: Path) -> None:
    found = judged(dataset, tmp_path, {"shore": SHORE, "trees": TREES})
    assert found["kind"] == "segmentation"
    assert found["auxiliary"]["trees"]["test"]["r2"] > 0.5
    assert {p.name for p in tmp_path.glob("*.png")} == {
        "confusion.png", "reliability.png", "worst.png", "scatter_trees.png", "worst_trees.png",
    }  # fmt: skip
    text = (tmp_path / "report.html").read_text()
    assert "Shore: scores" in text
    assert "Trees: scores" in text
    card = "\n".join(score_lines({"chosen_by": "The last.", "precision": "fp32", **found}))
    for part in ("### Test", "### Trees, test", "macro F1", "RMSE (%)", "Calibration: ECE", "random forest"):
        assert part in card
    assert f"**{found['test']['baseline']['sentence']}**" in card


def test_equal_answers_give_equal_bytes(dataset: Dataset, tmp_path: Path) -> None:
    tasks: dict[str, Task] = {"shore": SHORE, "trees": TREES, "events": EVENTS}
    for name in ("one", "two"):
        judged(dataset, tmp_path / name, tasks)
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("one", "two"))
    assert first == second
    assert b"matplotlib" not in b"".join(first.values())


def test_without_a_test_validation_is_shown_and_it_is_said(tmp_path: Path) -> None:
    splits = ("train",) * 6 + ("validation",) * 3
    dataset = open_dataset(write_training_set(tmp_path / "dataset", splits=splits))
    found = judged(dataset, tmp_path / "out", {"shore": SHORE})
    assert found["test"]["miou"] is None
    assert found["test"]["baseline"] is None
    assert "cannot be trusted" in found["validation"]["interval_note"]
    assert found["validation"]["baseline"]["verdict"] == "not shown"
    text = (tmp_path / "out" / "report.html").read_text()
    assert "There are no test windows" in text
    assert "3 blocks of ground only" in text
    assert "there are no test scores" in "\n".join(score_lines({"chosen_by": "", **found}))


def test_nothing_to_judge_is_said(tmp_path: Path) -> None:
    dataset = open_dataset(write_training_set(tmp_path / "dataset", splits=("train",) * 3))
    found = judged(dataset, tmp_path / "out", {"shore": SHORE})
    assert found["calibration"]["note"].startswith("Validation holds nothing labelled")
    assert "Neither validation nor test holds a labelled pixel" in (tmp_path / "out" / "report.html").read_text()


def test_one_class_to_learn_from_leaves_no_forest_and_it_is_said(dataset: Dataset, tmp_path: Path) -> None:
    model = Model(dataset, {"shore": SHORE})

    def land_only(rows: Sequence[int]) -> list[Seen]:
        samples = model.read(rows)
        for sample in samples:
            strata = sample.truths["shore"].strata
            strata[strata == 1] = IGNORE
        return samples

    found = judge(dataset, {"shore": SHORE}, model.answers, tmp_path, colours={}, read=land_only)  # type: ignore[arg-type]
    assert found["test"]["baseline"] is None
    assert "no random forest to compare with" in (tmp_path / "report.html").read_text()


def test_the_page_stays_small_however_many_classes_and_windows(tmp_path: Path) -> None:
    dataset = open_dataset(write_training_set(tmp_path / "dataset", splits=("test",) * 70))
    ten = SomeTask("segmentation", tuple(f"class {k}" for k in range(10)))

    def noise(rows: Sequence[int]) -> list[Seen]:  # nothing compresses worse
        samples = []
        for row in rows:
            random = np.random.default_rng(row)
            cube = random.integers(1, 9000, (1, 4, 80, 80)).astype(np.uint16)
            truth = Truth(random.integers(10, size=(80, 80)).astype(np.uint8))
            samples.append(Seen({"sentinel2_l2a": cube}, {"sentinel2_l2a": np.ones((1, 80, 80), bool)}, {"ten": truth}))
        return samples

    model = Model(dataset, {"ten": ten}, errs=0.5)
    model.read = noise  # type: ignore[method-assign]
    judge(dataset, {"ten": ten}, model.answers, tmp_path, colours={}, read=noise)  # type: ignore[arg-type]
    assert (tmp_path / "report.html").stat().st_size < 5e6


def test_a_model_that_says_what_the_forest_says_is_as_well_calibrated(dataset: Dataset, tmp_path: Path) -> None:
    """Both are scaled by validation, so that not the scaling of one of them is what is compared."""

    def doubtful(rows: Sequence[int]) -> list[Seen]:  # a fifth is labelled wrongly, so that no forest is all right
        samples = [window(row) for row in rows]
        for row, sample in zip(rows, samples, strict=True):
            strata = sample.truths["shore"].strata
            wrong = (np.random.default_rng((row, 5)).random(strata.shape) < 0.2) & (strata != IGNORE)
            strata[wrong] = 1 - strata[wrong]
        return samples

    at_once = dataset.at_once
    forest = fit_forest(doubtful, dataset.indices("train"), "shore", SHORE, at_once=at_once)  # type: ignore[arg-type]
    assert forest is not None

    def same(split: str) -> Iterator[dict[str, Answer]]:
        for answer in forest.answers(doubtful, dataset.indices(split), at_once=at_once):  # type: ignore[arg-type]
            yield {"shore": answer}

    found = judge(dataset, {"shore": SHORE}, same, tmp_path, colours={}, read=doubtful)  # type: ignore[arg-type]
    baseline = found["test"]["baseline"]
    assert abs(found["calibration"]["temperature"] - 1) > 0.05
    assert baseline["temperature"] == pytest.approx(found["calibration"]["temperature"])
    for score in ("ece", "log_loss"):
        assert baseline["difference"][score]["value"] == pytest.approx(0, abs=1e-6)
        assert baseline["scores"][score] == pytest.approx(found["test"][score])
    assert found["validation"]["baseline"]["temperature"] == 1


def test_a_class_in_few_blocks_is_told_in_report_and_card(dataset: Dataset, tmp_path: Path) -> None:
    model = Model(dataset, {"shore": SHORE})

    def with_some_snow(rows: Sequence[int]) -> list[Seen]:
        samples = [window(row) for row in rows]
        for row, sample in zip(rows, samples, strict=True):
            if row in dataset.indices("test")[:2]:
                sample.truths["shore"].strata[0] = 2
        return samples

    model.read = with_some_snow  # type: ignore[method-assign]
    found = judge(dataset, {"shore": SHORE}, model.answers, tmp_path, colours={}, read=with_some_snow)  # type: ignore[arg-type]
    assert found["test"]["blocks_with"]["snow"] == 2
    assert "hold snow (in 2)" in found["test"]["interval_note"]
    assert found["test"]["interval_note"] in (tmp_path / "report.html").read_text()
    assert found["test"]["interval_note"] in "\n".join(score_lines({"chosen_by": "The last.", **found}))
