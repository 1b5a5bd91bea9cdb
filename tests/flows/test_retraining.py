"""Retraining without workers: what is due, a better challenger, a worse one, the old map, and the way back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from harvest import BETTER, WORSE, harvest_project, relabel, train
from prefectserver import Server
from typer.testing import CliRunner

from flows.cli.app import app
from flows.due import newest_season, reasons
from flows.lifecycle import in_turn
from olmoearth_core.project import load_project
from olmoearth_core.stage import project_lock


@pytest.fixture(scope="module")
def server(shared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all commands that train: each would start its own, which takes longer than what it is for."""
    server = Server(shared_home, tmp_path_factory.mktemp("prefect"))
    with server.started():
        yield server


def here(*arguments: str | Path) -> tuple[int, str]:
    """A command in this process, of those that need no flow: its exit code, and what it said or refused."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, f"{done.output}{done.exception or ''}"


def told(*arguments: str | Path) -> Any:
    """The JSON of such a command, which has to go well."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)


@pytest.mark.verify  # four trainings; its parts run always: test_compare_models, test_promotions, test_due, below
def test_a_better_model_takes_over_a_worse_one_does_not(
    server: Server, home: Path, tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefectserver.DEADLINE_SECONDS", 900)  # of a command on a busy machine
    project = harvest_project(tmp_path / "harvest", world, name="harvest")
    assert [reason.sentence for reason in reasons(load_project(project))] == ["No model has been trained yet."]
    first = server.olmoearth("run", project, "--json")
    assert first.code == 0, first.err + first.out
    old_map = project / first.json["stages"][-1]["folder"] / "map.tif"
    assert reasons(load_project(project)) == []

    # more labels, and training that works: through the gates, and the map is made anew
    relabel(project, leave_out=0)
    train(project, **BETTER)
    (reason,) = reasons(load_project(project))
    assert reason.sentence == "Labels changed since model version 1 was trained: labels/fields.geojson."
    better = server.olmoearth("retrain", project, "--if-due", "--json")
    assert better.code == 0, better.err + better.out
    assert (better.json["outcome"], better.json["version"]) == ("promoted", "2"), better.json
    assert better.json["mapped"] != first.json["stages"][-1]["folder"]
    report = (project / better.json["report"]).read_text()
    assert "It passes all gates." in report

    # training that does not: refused, with a report, and the champion goes on mapping
    relabel(project, leave_out=2)
    train(project, **WORSE)
    worse = server.olmoearth("retrain", project, "--why", "a slip of the pen", "--json")
    assert worse.code == 0, worse.err + worse.out
    assert (worse.json["outcome"], worse.json["version"]) == ("refused", "3"), worse.json
    assert "mapped" not in worse.json
    assert "**refused**" in (project / worse.json["report"]).read_text()
    assert reasons(load_project(project)) == [], "what was tried is not tried again"
    models = {m["version"]: m["aliases"] for m in told("models", project)["models"]}
    assert models == {"1": [], "2": ["champion"], "3": ["challenger"]}
    assert "version 3 is refused, version 2 stays champion" in worse.json["sentence"]
    mapped = server.olmoearth("run", project, "--json")
    assert mapped.json["stages"][-1]["folder"] == better.json["mapped"]
    assert [stage["skipped"] for stage in mapped.json["stages"]] == [True] * 5

    # the old map still is the old model's, and the way back is one command
    audited = told("audit", old_map)
    assert audited["verified"], audited
    assert audited["model"]["version"] == "1"
    back = told("models", "rollback", project, "--why", "fields of the delegation looked wrong")
    assert back == {"project": "harvest", "champion": "1", "before": "2"}
    again = server.olmoearth("run", project, "--json")
    assert project / again.json["stages"][-1]["folder"] / "map.tif" == old_map
    shown = told("models", "show", project, "1")
    assert [(p["action"], p["why"]) for p in shown["promotions"]] == [
        ("promote", "the first model"),
        ("rollback", "fields of the delegation looked wrong"),
    ]
    assert {"frozen test", "newest labels"} <= {e["split"] for e in shown["evaluations"]}
    assert len(shown["maps"]) == 1
    gates_by_hand(project)


def gates_by_hand(project: Path) -> None:
    """compare changes nothing; promote asks the gates, and --force does not; a version that is not there is told."""
    before = told("models", project)
    compared = told("models", "compare", project, "1", "2")
    assert (compared["passed"], compared["challenger"], compared["champion"]) == (False, "1", "2")
    assert told("models", project) == before
    code, said = here("models", "promote", project, "2", "--why", "looks right")
    assert code == 0, said
    assert "passed  score: mean IoU +" in said
    assert "version 2 is the champion now; it was version 1" in said
    code, said = here("models", "promote", project, "1")
    assert code == 1
    assert "version 1 is refused, version 2 stays champion. score: mean IoU -" in " ".join(said.split())
    assert told("models", "promote", project, "1", "--force")["promoted"] is True
    code, said = here("models", project)
    assert code == 0
    assert "champion" in said
    code, said = here("models", "promote", project, "9")
    assert code == 1
    assert "no model version or alias '9'" in " ".join(said.split())


def test_a_season_that_came_round_again(tmp_path: Path, world: Path) -> None:
    project = load_project(harvest_project(tmp_path / "season", world, name="season", triggers=["season"]))
    # map.date 2023-01-01, timesteps until the end of April of the year after
    day, last = project.config.map.date, max(s.end for s in project.config.imagery.framing.spans(date(2024, 1, 1)))
    assert newest_season(project, last - timedelta(days=1)) == day
    assert newest_season(project, last) == date(2024, 1, 1)
    assert reasons(project, today=last - timedelta(days=1)) == []
    (reason,) = reasons(project, today=last)
    assert (reason.kind, reason.about) == ("season", "2024-01-01")
    assert "the map is of 2023-01-01" in reason.sentence


HOLDER = """
import sys, time
from pathlib import Path
from flows.lifecycle import in_turn
from olmoearth_core.project import load_project
from olmoearth_core.stage import project_lock
with project_lock(load_project(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(2)
"""


def test_a_deployed_stage_waits_until_the_other_run_lets_go(
    tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = load_project(harvest_project(tmp_path / "turn", world, name="turn"))
    monkeypatch.setattr("flows.lifecycle.TURN_PAUSE_SECONDS", 0.2)
    tries = []

    def work() -> str:
        tries.append(1)
        with project_lock(project):
            return "done"

    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(project.root)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == "held\n"
        assert in_turn(work) == "done"
    assert len(tries) > 1
