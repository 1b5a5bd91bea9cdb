"""What a person reads of a stage: a line a value, and each warning once."""

from __future__ import annotations

from typing import Any

from flows.report import outlook_lines, outlook_table, scores_lines, stage_markdown, summary_lines, warning_lines
from olmoearth_core.outlook import ClassOutlook, Outlook

SUMMARY = {
    "classes": {"winter crop": {"train": {"windows": 9, "pixels": 18060}}},
    "left_out": {},
    "failed_assets": [{"scene": f"s{k}", "reason": "gone"} for k in range(5)],
    "note": "",
    "windows": {"train": 16, "test": 9},
    "share": 0.123456,
    "warnings": ["labels.gpkg: hardly any"],
}


def result(skipped: bool = False) -> dict[str, Any]:
    return {"stage": "export", "key": "k", "folder": "data/export", "skipped": skipped, "summary": SUMMARY}


def test_a_line_a_value() -> None:
    assert summary_lines(result()) == [
        "  classes:",
        "    winter crop:",
        "      train: windows 9, pixels 18,060",
        "  left out: none",
        "  failed assets: 5",
        *(f"    scene s{k}, reason gone" for k in range(3)),
        "    ...",
        "  windows: train 16, test 9",
        "  share: 0.1235",
    ]


def test_warnings_are_told_once() -> None:
    """A stage that ran told them as it went; of one that was up to date they are told at the end."""
    assert warning_lines(result()) == []
    assert warning_lines(result(skipped=True)) == ["  Warning: labels.gpkg: hardly any"]
    page = stage_markdown("fields", result())
    assert "  - labels.gpkg: hardly any" in page
    assert page.count("scene s") == 5


def test_what_an_outlook_warns_of() -> None:
    windows = {"train": 0, "validation": 2, "test": 0}
    expected = Outlook(
        {"water": ClassOutlook(7, 1.0, windows)}, windows, {"train": 3, "test": 0}, {}, {"landsat": ("B1",)}
    )
    lost, never, bands = outlook_lines(expected)
    assert "3 of train" in lost
    assert "test" not in lost
    assert "No training window has 'water'" in never
    assert bands == "The catalogue has no B1 of landsat; the encoder does without."


def test_an_outlook_tells_when_too_little_is_judged_or_learned_from() -> None:
    windows = {"train": 6, "validation": 10, "test": 4}
    few, learned = outlook_lines(Outlook({}, windows, {}, {"train": 1, "validation": 5, "test": 2}, {}))
    assert "test in 2" in few
    assert "validation" not in few.split(".")[0]
    assert "Only 6 windows are for training" in learned
    windows = {"train": 60, "validation": 10, "test": 0}
    assert outlook_lines(Outlook({}, windows, {}, {"train": 30, "validation": 5, "test": 0}, {})) == []


def test_a_regression_is_laid_out_by_ranges() -> None:
    windows = {"train": 1, "validation": 1, "test": 1}
    expected = Outlook({"0..20": ClassOutlook(7, 1.0, windows)}, windows, {}, {}, {})
    assert outlook_table(expected, "regression").columns[0].header == "range"
    assert outlook_table(expected, "segmentation").columns[0].header == "class"


def test_scores_and_their_verdict_are_sentences() -> None:
    told = {"test": {"miou": 0.9287, "baseline": "The model is better."}, "validation": {"r2": 0.5, "rmse": 9.0}}
    assert scores_lines(result() | {"summary": told}) == [
        "  validation: R2 0.5, RMSE 9",
        "  test: mIoU 0.9287. The model is better.",
    ]
