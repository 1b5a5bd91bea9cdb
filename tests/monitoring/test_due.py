"""Drift makes retraining due: measured of the newest map alone, told with its numbers, and tried once."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from mapped import AUTUMN, BRIGHT, SAME, ask
from shore import DATE
from typer.testing import CliRunner

from flows.cli.app import app
from flows.due import reasons
from flows.monitoring import newest_drift
from flows.progress import listening
from olmoearth_core.monitoring.drift import drift, last_drift
from olmoearth_core.monitoring.overview import overview
from olmoearth_core.progress import Silent
from olmoearth_core.project import Project, load_project


class Notes(Silent):
    """A listener that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, message: str) -> None:
        self.told.append(message)


@pytest.fixture
def retrains(mapped: Project, tmp_path: Path) -> Project:
    """A copy of the project, whose retraining drift makes due."""
    copy = shutil.copytree(mapped.root, tmp_path / "shore", copy_function=shutil.copy2)
    return ask(load_project(copy), DATE, retraining={"triggers": ["drift"]})


def made_last(folder: Path) -> None:
    """As if these outputs had been made just now."""
    later = time.time() + 1000
    os.utime(folder / "manifest.json", (later, later))


def test_drift_of_the_newest_map_is_due_with_its_numbers(retrains: Project) -> None:
    (reason,) = reasons(retrains)
    assert reason.kind == "drift"
    assert reason.about.startswith(f"shore-{AUTUMN}")
    assert "drifted; most of all" in reason.sentence
    assert "limit 0.25" in reason.sentence
    told = CliRunner().invoke(app, ["due", str(retrains.root), "--json"])
    row = {"kind": "drift", "sentence": reason.sentence, "needs": reason.needs, "told": False}
    assert json.loads(told.stdout)["due"] == [row]

    # the same labels and settings give the same model: that is said, and not tried, unless there is something new
    assert "add labels of what is new" in reason.needs
    assert overview(retrains).due == ["labels of what is new (drift)"]
    assert "No retraining: Labels, scenes and settings" in CliRunner().invoke(app, ["due", str(retrains.root)]).output
    going_on = ask(retrains, DATE, retraining={"triggers": ["drift"], "start": "champion"})
    assert [one.needs for one in reasons(going_on)] == [""]
    assert "retraining (drift)" in overview(going_on).due
    longer = ask(retrains, DATE, retraining={"triggers": ["drift"], "start": "base"}, training={"epochs": 4})
    assert [one.needs for one in reasons(longer)] == [""]
    assert "retraining (drift)" in overview(longer).due
    ask(retrains, DATE, training={"epochs": 3})

    # the limits are those of the section monitoring, and no others
    wide = {"imagery": 50.0, "embeddings": 50.0, "predictions": 50.0, "between_maps": 50.0}
    assert reasons(ask(retrains, DATE, monitoring=wide)) == []


def test_without_a_shift_nothing_is_due(retrains: Project) -> None:
    (same,) = retrains.root.glob(f"maps/shore-{SAME}-*")
    made_last(same)
    assert reasons(retrains) == []
    told = CliRunner().invoke(app, ["due", str(retrains.root)])
    assert "Nothing is due." in told.output


def test_a_model_that_was_trained_since_has_tried_it(retrains: Project) -> None:
    (bright,) = retrains.root.glob(f"maps/shore-{BRIGHT}-*")
    made_last(bright)
    assert [reason.about for reason in reasons(retrains)] == [bright.name]
    model = next(path.parent for path in retrains.root.rglob("weights.safetensors"))
    made_last(model)
    os.utime(bright / "manifest.json", (time.time() + 500, time.time() + 500))
    assert reasons(retrains) == []
    assert "retraining (drift)" not in overview(retrains).due


def test_what_cannot_be_measured_is_a_note(retrains: Project) -> None:
    notes = Notes()
    shutil.rmtree(retrains.root / ".olmoearth" / "monitoring", ignore_errors=True)
    shutil.move(retrains.root / "imagery", retrains.root / "away")
    blind = drift(retrains)
    assert (blind.windows, last_drift(retrains, blind.map_id)) == (0, None), "asked again when it can be read again"
    assert "None of the map's scenes can be read" in blind.note
    for weights in list(retrains.root.rglob("weights.safetensors")):
        shutil.rmtree(weights.parent)
    with listening(notes):
        assert newest_drift(retrains) is None
        assert reasons(retrains) == []
    assert notes.told[0].startswith("Drift of shore cannot be measured: ")
