"""`olmoearth probe` and `olmoearth search`, as a partner calls them."""

from __future__ import annotations

from pathlib import Path

import yaml
from partner import Run

from flows.door import run_stage
from olmoearth_core.progress import Silent
from olmoearth_core.project import load_project


def test_probe_then_search_then_the_winner_is_in_project_yaml(project: Path, olmoearth: Run) -> None:
    refused = olmoearth("probe", project)
    assert refused.code == 1
    assert "the stage 'export' has no up-to-date outputs" in refused.err
    for stage in ("export", "preprocess"):
        run_stage(load_project(project), stage, progress=Silent())

    shown = olmoearth("probe", project)
    assert shown.code == 0, shown.err
    assert "v1.1-nano" in shown.out
    assert "random forest" in shown.out
    probed = olmoearth("probe", project, "--json")  # remembers
    assert probed.code == 0, probed.out + probed.err
    [row] = probed.json["encoders"]
    assert all(0 < row["random"][learner]["value"] <= 1 for learner in ("knn", "linear"))
    assert f"{probed.json['forest']['value']:.3f}" in shown.out

    searched = olmoearth("search", project, "--learning-rates", "0.01,0.00001", "--write", "--json")
    assert searched.code == 0, searched.out + searched.err
    assert [trial["outcome"] for trial in searched.json["trials"]] == ["won", "stopped"]
    assert [trial["epochs"] for trial in searched.json["trials"]] == [4, 2]
    config = load_project(project).config
    assert (config.training.recipe, config.training.epochs) == ("full", 4)
    assert config.training.learning_rate == searched.json["winner"]["learning_rate"]
    model = yaml.safe_load((project / "project.yaml").read_text())["model"]
    assert model == {"encoder": "v1.1-nano", "patch_size": 8, "window_size": 32}
