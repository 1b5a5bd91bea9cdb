"""Deployments of many projects on a server that asks for a password: made once, changed where they differ, removed."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import toy
import yaml
from prefectserver import BIN, Server
from webhook import served

KINDS = {"lifecycle", "finetune", "mapping", "retrain"}
LOGIN = "house:a password"


@pytest.fixture(scope="module")
def server(shared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("prefect")
    settings = {"PREFECT_SERVER_API_AUTH_STRING": LOGIN, "PREFECT_API_AUTH_STRING": LOGIN}
    server = Server(shared_home, folder, **settings)
    with server.started():
        yield server


def projects(folder: Path, count: int, **changes: Any) -> list[Path]:
    """Project folders that retrain."""
    settings = {"retraining": {"cron": "0 4 1 * *"}, **changes}
    return [
        toy.write_project(folder / f"{folder.name}-{k}", {"name": f"{folder.name}-{k}", **settings}).root
        for k in range(count)
    ]


def on(server: Server, *tags: str) -> list[dict[str, Any]]:
    """Deployments with these tags, all pages of them."""
    found: list[dict[str, Any]] = []
    while page := server.ask("/deployments/filter", deployments={"tags": {"all_": list(tags)}}, offset=len(found)):
        found += page
    return found


def test_one_of_each_kind_and_nothing_changes_the_second_time(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    cluster = {"engine": "dask", "processes": 2}
    settings = {"mapping": "0 5 * * 1", "timezone": "Africa/Nairobi", "tags": ["ours"], **cluster}
    roots = projects(folder, 3, deployment=settings)
    first = server.olmoearth("deploy", *roots, "--json")
    assert first.code == 0, first.err + first.out
    assert Counter(d["done"] for d in first.json["deployments"]) == {"made": 13}
    names = Counter(d["name"] for d in first.json["deployments"])
    assert names == {f"{kind}/many-{k}": 1 for kind in KINDS for k in range(3)} | {"watch/projects": 1}
    before = {d["id"]: d for d in on(server, "olmoearth")}
    mapping = server.ask("/deployments/name/mapping/many-1")
    assert mapping["tags"] == ["olmoearth", "many-1", "ours"]
    assert mapping["schedules"][0]["schedule"]["cron"] == "0 5 * * 1"
    assert mapping["schedules"][0]["schedule"]["timezone"] == "Africa/Nairobi"
    assert mapping["parameters"] == {"project": str(roots[1]), "refresh": True, **cluster}
    for kind in ("lifecycle", "retrain"):  # which map, too
        found = server.ask(f"/deployments/name/{kind}/many-1")["parameters"]
        assert found == {"project": str(roots[1]), "finetune_by": "finetune/many-1", **cluster}
    assert mapping["global_concurrency_limit"]["limit"] == 1
    assert server.ask("/deployments/name/watch/projects")["parameters"] == {"projects": [str(root) for root in roots]}
    automations = server.ask("/automations/filter", sort="NAME_ASC")
    assert [a["name"] for a in automations] == [f"olmoearth: retraining of many-{k}" for k in range(3)]
    assert automations[0]["trigger"]["expect"] == ["olmoearth.labels.changed"]
    assert automations[0]["trigger"]["match"] == {"prefect.resource.id": "olmoearth.project.many-0"}

    again = server.olmoearth("deploy", *roots, "--json")
    assert Counter(d["done"] for d in again.json["deployments"]) == {"unchanged": 13}
    assert {d["id"]: d for d in on(server, "olmoearth")} == before
    assert server.ask("/automations/filter", sort="NAME_ASC") == automations

    # what is different in a project.yaml, and nothing else
    settings = yaml.safe_load((roots[0] / "project.yaml").read_text())
    settings["retraining"] = {"cron": "0 5 1 * *", "triggers": ["labels", "season"]}
    (roots[0] / "project.yaml").write_text(yaml.safe_dump(settings))
    changed = server.olmoearth("deploy", *roots, "--json")
    assert [d["name"] for d in changed.json["deployments"] if d["done"] == "changed"] == ["retrain/many-0"]
    automations = server.ask("/automations/filter", sort="NAME_ASC")
    assert len(automations) == 3
    assert set(automations[0]["trigger"]["expect"]) == {"olmoearth.labels.changed", "olmoearth.season.over"}

    # a second project of a name, or one name twice: refused before anything is made
    other = projects(tmp_path / "others", 1)[0]
    twin = toy.write_project(tmp_path / "twin", {"name": "many-0"}).root
    for pair in ((other, twin), (twin, roots[0])):
        refused = server.olmoearth("deploy", *pair)
        assert refused.code == 1
        assert "A name is one project's" in refused.err
    assert on(server, "others-0") == []

    gone = server.olmoearth("undeploy", *roots[:2], "--json")
    assert Counter(d["done"] for d in gone.json["deployments"]) == {"removed": 8, "changed": 1}
    assert len(server.ask("/automations/filter", sort="NAME_ASC")) == 1
    assert server.olmoearth("undeploy", roots[2]).code == 0
    assert on(server, "olmoearth") == []
    twice = server.olmoearth("undeploy", roots[2])
    assert (twice.code, twice.err) == (0, "")
    assert "0 deployments removed: many-2 is not deployed" in twice.out


def test_refusals_leave_nothing_behind(server: Server, tmp_path: Path) -> None:
    good = projects(tmp_path / "good", 1)[0]
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    settings = toy.with_changes({"name": "wrong", "retraining": {"cron": "now and then"}})
    (wrong / "project.yaml").write_text(yaml.safe_dump(settings))
    refused = server.olmoearth("deploy", good, wrong)
    assert refused.code == 1
    assert "retraining.cron: 'now and then' is no cron expression" in refused.err

    stranger = Server.__new__(Server)
    stranger.__dict__ = {**server.__dict__, "environment": server.environment | {"PREFECT_API_AUTH_STRING": "me:guess"}}
    refused = stranger.olmoearth("deploy", good)
    assert refused.code == 1
    assert "refuses these credentials (401). Set PREFECT_API_AUTH_STRING" in refused.err
    assert "Traceback" not in refused.err
    assert on(server, "good-0") == []


@pytest.mark.verify
def test_two_hundred_projects_in_a_minute(server: Server, tmp_path: Path, record_property: Any) -> None:
    roots = projects(tmp_path / "house", 200)
    start = time.monotonic()
    made = server.olmoearth("deploy", *roots, "--json")
    seconds = time.monotonic() - start
    assert made.code == 0, made.err + made.out
    record_property("seconds", round(seconds, 1))
    assert Counter(d["done"] for d in made.json["deployments"]) == {"made": 801}
    start = time.monotonic()
    again = server.olmoearth("deploy", *roots, "--json")
    record_property("seconds_again", round(time.monotonic() - start, 1))
    assert Counter(d["done"] for d in again.json["deployments"]) == {"unchanged": 801}
    assert len(on(server, "olmoearth")) == 801
    assert seconds < 60


def test_a_busy_server_is_asked_again_soon() -> None:
    """Prefect's own client would wait two seconds, then four."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.server import prefect_server

    asked: list[float] = []

    class Busy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(time.monotonic())
            self.send_response(503 if len(asked) < 3 else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    with served(Busy) as port:
        settings = {PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}
        with temporary_settings(settings), prefect_server():
            first, second, third = asked
    assert second - first >= 0.1
    assert third - second >= 0.5
    assert third - first < 6


def test_the_platforms_own_deployments_can_be_made(server: Server, tmp_path: Path) -> None:
    """Every flow, queue and variable that prefect.yaml names is there, and `prefect deploy --all` makes them."""
    from prefect.flows import load_flow_from_entrypoint

    platform = Path(__file__).parents[2]
    wanted = yaml.safe_load((platform / "prefect.yaml").read_text())["deployments"]
    assert wanted
    for deployment in wanted:
        flow = load_flow_from_entrypoint(deployment["entrypoint"])
        assert deployment["parameters"].keys() <= flow.parameters.properties.keys()
        assert deployment["work_pool"] == {"name": "olmoearth", "work_queue_name": "default"}
    pooled = projects(tmp_path / "pooled", 1)[0]
    assert server.olmoearth("deploy", pooled).code == 0  # makes the pool
    assert server.olmoearth("undeploy", pooled).code == 0
    done = subprocess.run(
        [str(BIN / "prefect"), "deploy", "--all"],
        cwd=platform,
        env=server.environment | {"PROJECTS": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    made = server.ask("/deployments/name/watch/folder")
    assert made["parameters"] == {"folder": str(tmp_path)}
    assert [one["schedule"]["cron"] for one in made["schedules"]] == ["*/15 * * * *"]
    assert made["pull_steps"] == [], "a worker elsewhere has no such folder"
    assert (made["work_pool_name"], made["global_concurrency_limit"]["limit"]) == ("olmoearth", 1)
    assert server.ask("/deployments/bulk_delete", deployments={"name": {"any_": ["folder"]}})["deleted"] == [made["id"]]
