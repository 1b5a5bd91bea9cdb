"""A house that runs by itself: a real Prefect server and workers, a cron that fires, labels that change, news."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from harvest import BETTER, WORSE, harvest_project, relabel, train
from prefectserver import Server
from webhook import web_hook

from flows.notify import notify
from olmoearth_core.progress import Silent
from olmoearth_core.project import load_project

PATIENCE_SECONDS = 900


class Notes(Silent):
    """A listener that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, message: str) -> None:
        self.told.append(message)


@pytest.fixture(scope="module")
def server(shared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Whose schedules and events are looked at often."""
    often = {"PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5"}
    server = Server(shared_home, tmp_path_factory.mktemp("prefect"), **often)
    with server.started():
        yield server


def retrainings(server: Server) -> list[dict[str, Any]]:
    """Flow runs of retraining that have ended, oldest first."""
    asked: list[dict[str, Any]] = server.ask(
        "/flow_runs/filter", flows={"name": {"any_": ["retrain"]}}, sort="START_TIME_ASC", limit=200
    )
    return [run for run in asked if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED")]


def wait(what: Callable[[], Any], server: Server) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := what()):
        assert time.monotonic() < deadline, server.log()
        time.sleep(1)
    return found


def aliases(server: Server, project: Path) -> dict[str, list[str]]:
    return {m["version"]: m["aliases"] for m in server.olmoearth("models", project, "--json").json["models"]}


@pytest.mark.verify
def test_a_house_that_runs_by_itself(
    server: Server, tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    monkeypatch.setattr("prefectserver.DEADLINE_SECONDS", PATIENCE_SECONDS)
    began = time.monotonic()
    with web_hook() as (hook, news):
        project = harvest_project(tmp_path / "house", world, name="house", hook=hook, start="champion")
        first = server.olmoearth("run", project, "--json")
        assert first.code == 0, first.err + first.out
        old_map = project / first.json["stages"][-1]["folder"] / "map.tif"
        deployed = server.olmoearth("deploy", project, "--json")
        assert deployed.code == 0, deployed.err + deployed.out

        with server.worker("default"), server.worker("gpu"):
            # a label change starts retraining by event; the better model takes over, and the map is made anew
            assert server.run("watch/projects")["state_type"] == "COMPLETED", server.log()
            assert retrainings(server) == [], "nothing was due"
            relabel(project, leave_out=0)
            train(project, **BETTER)
            assert server.run("watch/projects")["state_type"] == "COMPLETED", server.log()
            wait(lambda: retrainings(server), server)
            (by_event,) = retrainings(server)
            assert by_event["state_type"] == "COMPLETED", by_event["state"]["message"] + server.log()
            assert by_event["parameters"]["why"].startswith("Labels changed since model version 1 was trained")
            assert aliases(server, project) == {"1": [], "2": ["champion"]}
            assert len(list((project / "maps").glob("house-*"))) == 2
            assert len(server.finetunings("house")) == 1, "on the queue gpu"
            assert [one["title"] for one in news] == ["house: promoted"]

            # a cron schedule fires; the worse model is refused, and the champion stays
            relabel(project, leave_out=2)
            train(project, **WORSE)
            settings = yaml.safe_load((project / "project.yaml").read_text())
            settings["retraining"] |= {"cron": "* * * * *", "start": "base"}
            (project / "project.yaml").write_text(yaml.safe_dump(settings))
            assert server.olmoearth("deploy", project).code == 0
            wait(lambda: len(retrainings(server)) > 1, server)
            by_cron = retrainings(server)[1]
            assert by_cron["state_type"] == "COMPLETED", by_cron["state"]["message"] + server.log()
            assert by_cron["auto_scheduled"] is True
            assert aliases(server, project) == {"1": [], "2": ["champion"], "3": ["challenger"]}
            assert [one["title"] for one in news] == ["house: promoted", "house: refused"]
            assert "version 3 is refused, version 2 stays champion" in news[1]["message"]
            assert len(list((project / "maps").glob("house-*"))) == 2

            # nothing due, nothing done: the schedule fires on
            wait(lambda: len(retrainings(server)) > 2, server)
            assert aliases(server, project) == {"1": [], "2": ["champion"], "3": ["challenger"]}
            assert len(news) == 2
        assert server.olmoearth("undeploy", project).code == 0

    # the old map still audits to the old model, and one command goes back to it
    audited = server.olmoearth("audit", old_map, "--json").json
    assert (audited["verified"], audited["model"]["version"]) == (True, "1"), audited
    assert server.olmoearth("models", "rollback", project).code == 0
    assert aliases(server, project)["1"] == ["champion"]
    record_property("seconds", round(time.monotonic() - began))


def test_notifications_reach_a_web_hook(
    tmp_path: Path, world: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with web_hook() as (hook, news):
        monkeypatch.setenv("HOUSE_HOOK", hook)
        folder = harvest_project(tmp_path / "told", world, name="told", hook="$HOUSE_HOOK")
        project, notes = load_project(folder), Notes()
        assert notify(project, "promotion", "told: promoted", "Version 2 is the champion.", notes) == 1, notes.told
        assert (news[0]["title"], news[0]["message"]) == ("told: promoted", "Version 2 is the champion.")
        monkeypatch.delenv("HOUSE_HOOK")
        assert notify(project, "promotion", "x", "y", notes) == 0
        assert "the environment variable $HOUSE_HOOK is not set" in notes.told[-1]
    # a receiver that is gone, or no address of Apprise's, is a note and never a failure
    for address, problem in ((hook, "the service did not take it"), ("nonsense://x", "no address that Apprise knows")):
        monkeypatch.setenv("HOUSE_HOOK", address)
        assert notify(project, "failure", "x", "y", notes) == 0
        assert problem in notes.told[-1]
    settings = yaml.safe_load((folder / "project.yaml").read_text())
    settings["notifications"]["about"] = ["drift"]
    (folder / "project.yaml").write_text(yaml.safe_dump(settings))
    assert notify(load_project(folder), "promotion", "x", "y", notes) == 0
