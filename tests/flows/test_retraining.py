"""Retraining without a server: what is due, a better challenger, a worse one, the old map, and the way back."""

from __future__ import annotations

import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import pytest
from harvest import BETTER, WORSE, harvest_project, relabel, train
from partner import Run

from flows.due import newest_season, reasons
from flows.lifecycle import in_turn
from olmoearth_core.project import load_project
from olmoearth_core.stage import project_lock


def test_a_better_model_takes_over_a_worse_one_does_not(
    olmoearth: Run, home: Path, tmp_path: Path, world: Path
) -> None:
    project = harvest_project(tmp_path / "harvest", world, name="harvest")
    assert [reason.sentence for reason in reasons(load_project(project))] == ["No model has been trained yet."]
    first = olmoearth("run", project, "--json")
    assert first.code == 0, first.err + first.out
    old_map = project / first.json["stages"][-1]["folder"] / "map.tif"
    assert reasons(load_project(project)) == []

    # more labels, and training that works: through the gates, and the map is made anew
    relabel(project, leave_out=0)
    train(project, **BETTER)
    (reason,) = reasons(load_project(project))
    assert reason.sentence == "Labels changed since model version 1 was trained: labels/fields.geojson."
    better = olmoearth("retrain", project, "--if-due", "--json")
    assert better.code == 0, better.err + better.out
    assert (better.json["outcome"], better.json["version"]) == ("promoted", "2"), better.json
    assert better.json["mapped"] != first.json["stages"][-1]["folder"]
    report = (project / better.json["report"]).read_text()
    assert "It passes all gates." in report

    # training that does not: refused, with a report, and the champion goes on mapping
    relabel(project, leave_out=2)
    train(project, **WORSE)
    worse = olmoearth("retrain", project, "--why", "a slip of the pen", "--json")
    assert worse.code == 0, worse.err + worse.out
    assert (worse.json["outcome"], worse.json["version"]) == ("refused", "3"), worse.json
    assert "mapped" not in worse.json
    assert "**refused**" in (project / worse.json["report"]).read_text()
    assert reasons(load_project(project)) == [], "what was tried is not tried again"
    models = {m["version"]: m["aliases"] for m in olmoearth("models", project, "--json").json["models"]}
    assert models == {"1": [], "2": ["champion"], "3": ["challenger"]}
    assert "version 3 is refused, version 2 stays champion" in worse.json["sentence"]
    mapped = olmoearth("run", project, "--json")
    assert mapped.json["stages"][-1]["folder"] == better.json["mapped"]
    assert [stage["skipped"] for stage in mapped.json["stages"]] == [True] * 5

    # the old map still is the old model's, and the way back is one command
    audited = olmoearth("audit", old_map, "--json").json
    assert audited["verified"], audited
    assert audited["model"]["version"] == "1"
    back = olmoearth("models", "rollback", project, "--why", "fields of the delegation looked wrong", "--json")
    assert back.json == {"project": "harvest", "champion": "1", "before": "2"}
    again = olmoearth("run", project, "--json")
    assert project / again.json["stages"][-1]["folder"] / "map.tif" == old_map
    shown = olmoearth("models", "show", project, "1", "--json").json
    assert [(p["action"], p["why"]) for p in shown["promotions"]] == [
        ("promote", "the first model"),
        ("rollback", "fields of the delegation looked wrong"),
    ]
    assert {"frozen test", "newest labels"} <= {e["split"] for e in shown["evaluations"]}
    assert len(shown["maps"]) == 1


def test_gates_by_hand(olmoearth: Run, tmp_path: Path, world: Path) -> None:
    """compare changes nothing; promote asks the gates, and --force does not; a version that is not there is told."""
    project = harvest_project(tmp_path / "hand", world, name="hand")
    assert olmoearth("run", project, "--until", "finetune").code == 0
    train(project, **BETTER)
    assert olmoearth("finetune", project).code == 0
    compared = olmoearth("models", "compare", project, "1", "2", "--json")
    assert compared.code == 0, compared.err + compared.out
    assert (compared.json["passed"], compared.json["challenger"], compared.json["champion"]) == (False, "1", "2")
    promoted = olmoearth("models", "promote", project, "2", "--why", "looks right")
    assert promoted.code == 0, promoted.err + promoted.out
    assert "passed  score: mean IoU +" in promoted.out
    assert "version 2 is the champion now; it was version 1" in promoted.out
    refused = olmoearth("models", "promote", project, "1")
    assert refused.code == 1
    assert "version 1 is refused, version 2 stays champion. score: mean IoU -" in refused.err
    forced = olmoearth("models", "promote", project, "1", "--force", "--json")
    assert (forced.code, forced.json["promoted"]) == (0, True)
    listed = olmoearth("models", project)
    assert listed.code == 0
    assert "champion" in listed.out
    missing = olmoearth("models", "promote", project, "9")
    assert missing.code == 1
    assert "no model version or alias '9'" in missing.err


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
