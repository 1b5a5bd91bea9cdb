"""The flow `monitor` leaves a table; `olmoearth status` tells how projects stand, broken ones too."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from mapped import ask
from shore import DATE
from typer.testing import CliRunner
from webhook import web_hook

from flows.cli.app import app
from flows.monitoring import standings
from olmoearth_core.monitoring.drift import last_drift
from olmoearth_core.project import Project, load_project
from registry.workspace import Workspace


def test_the_flow_leaves_an_artifact_and_the_watch_tells_once(mapped: Project, tmp_path: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.testing.utilities import prefect_test_harness

    from flows.monitor import monitor
    from flows.retrain import retrain
    from flows.watch import watch

    with prefect_test_harness(server_startup_timeout=120), web_hook() as (hook, news):
        copy = shutil.copytree(mapped.root, tmp_path / "shore", copy_function=shutil.copy2)
        shutil.rmtree(copy / ".olmoearth" / "monitoring", ignore_errors=True)
        wishes: dict[str, dict[str, object]] = {"retraining": {"triggers": ["drift"]}, "notifications": {"to": [hook]}}
        watched = ask(load_project(copy), DATE, **wishes)
        first, second = watch([str(copy)]), watch([str(copy)])
        with get_client(sync_client=True) as client:
            names = [run.name for run in client.read_flow_runs()]
            deadline = time.monotonic() + 60
            while not any("looking at the map's imagery" in log.message for log in client.read_logs(limit=200)):
                assert time.monotonic() < deadline, "what a run logs is on Prefect's pages"
                time.sleep(0.5)
        (sentence,) = first[str(copy)]
        assert second == {str(copy): []}, "an event for each map, and no more"
        assert names.count(f"drift of {copy}") == 1, "measured once"
        assert [one["title"] for one in news] == ["shore: drift"]
        assert sentence in news[0]["message"]
        assert "add labels of what is new" in news[0]["message"]
        assert last_drift(watched, sentence.partition(":")[0]) is not None

        models = {path.parent.name for path in copy.rglob("weights.safetensors")}
        tried = retrain(str(copy))  # as the event has it start
        assert (tried["due"], tried["outcome"]) == ([sentence], "nothing new")
        assert "add labels of what is new" in tried["sentence"]
        assert {path.parent.name for path in copy.rglob("weights.safetensors")} == models, "nothing was trained"

        report = monitor(str(mapped.root))
        assert report["drifted"] is True, "the map made last is that of autumn"
        with get_client(sync_client=True) as client:
            artifact = max(client.read_artifacts(), key=lambda one: one.created or one.updated)
    assert artifact.key == "shore-drift"
    assert artifact.description == report["sentence"]
    rows = json.loads(str(artifact.data))
    assert len(rows) == len(report["moved"])
    assert {row["against"] for row in rows} >= {"the training set", "held-out windows"}
    assert [row["drifted"] for row in rows].count("yes") == sum(one["beyond"] for one in report["moved"])


def test_status_of_all_that_the_registry_knows(
    mapped: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLMOEARTH_HOME", str(tmp_path / "home"))
    empty = CliRunner().invoke(app, ["status"])
    assert "No project has run yet" in empty.output
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "project.yaml").write_text("name: [")
    found = standings([mapped.root, tmp_path / "broken"], Workspace.from_environment())
    assert [row["project"] for row in found] == ["broken", "shore"], "what failed comes first"
    assert "project.yaml" in found[0]["failures"][0]
    assert found[1]["champion"] is None
    shown = CliRunner().invoke(app, ["status", str(mapped.root), str(tmp_path / "broken")])
    assert shown.exit_code == 0
    assert "shore" in shown.output
    told = CliRunner().invoke(app, ["status", str(mapped.root), "--json"])
    assert json.loads(told.output)[0]["last_map"].startswith("shore-2024-10-01")
