"""The commands of docs/assessment.md do what it says."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from test_change import write_probabilities
from test_sample import fill_table, some_classes, write_map
from typer.testing import CliRunner

from flows.cli.app import app
from olmoearth_core.assessment.sample import read_design

DOCS = Path(__file__).parents[2] / "docs/assessment.md"
PLACES = {"<map id>": "later", "<earlier>": "earlier", "<later>": "later"}


def commands() -> list[list[str]]:
    """The words of each command line in the document, without comments."""
    lines = [line.strip() for line in DOCS.read_text().splitlines() if line.startswith("    olmoearth ")]
    for told, name in PLACES.items():
        lines = [line.replace(told, name) for line in lines]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def answer_as_mapped(folder: Path) -> None:
    design = read_design(folder)
    fill_table(folder, {unit.id: design.classes[unit.mapped] for unit in design.units})


def test_the_documented_commands_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    later = some_classes(0)
    later[40:90, 50:120] = 2
    for name, classes in (("earlier", some_classes(0)), ("later", later)):
        path = write_map(Path("my-project/maps") / name / "map.tif", classes, OLMOEARTH_MAP_ID=name)
        write_probabilities(path, np.full(classes.shape, 0.9))
    ran = []
    for words in commands():
        shown = CliRunner().invoke(app, words)
        assert shown.exit_code == 0, (words, shown.output)
        ran.append(words[0])
        if words[0] == "sample":
            [folder] = [
                path.parent for path in tmp_path.rglob("sample.json") if not (path.parent / "answered").exists()
            ]
            answer_as_mapped(folder)
            (folder / "answered").touch()
    assert ran == ["sample", "assess", "change", "sample", "assess"]
