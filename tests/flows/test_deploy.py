"""A deployed project: fine-tuning runs on the worker of the queue `gpu`, the rest on that of `default`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
import yaml
from partner import make_project
from prefectserver import DEADLINE_SECONDS, Server


@pytest.fixture(scope="module")
def server(shared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(shared_home, tmp_path_factory.mktemp("prefect"))
    with server.started():
        yield server


def test_finetuning_goes_to_the_gpu_queue_and_the_rest_elsewhere(server: Server, tmp_path: Path, world: Path) -> None:
    project = make_project(tmp_path / "fields", world, training__epochs=1, name="deployed")
    for _ in range(2):  # deploying again changes nothing
        made = server.olmoearth("deploy", project, "--json")
        assert made.code == 0, made.err + made.out
        assert [d["name"] for d in made.json["deployments"] if d["queue"] == "gpu"] == ["finetune/deployed"]
    assert {d["done"] for d in made.json["deployments"]} == {"unchanged"}
    assert len(server.ask("/deployments/filter", deployments={"tags": {"all_": ["deployed"]}})) == 4
    assert server.ask("/work_pools/olmoearth/queues/gpu")["concurrency_limit"] == 1

    with server.worker("default"):
        with server.worker("gpu"):
            first = server.run("lifecycle/deployed", until="finetune")
            assert first["state_type"] == "COMPLETED", first["state"]["message"] + server.log()
            assert first["work_queue_name"] == "default"
            assert server.tasks(first).keys() >= {"export", "preprocess", "finetune"}
            (finetuning,) = server.finetunings()
            assert finetuning["work_queue_name"] == "gpu"
            assert server.tasks(finetuning) == {"finetune": "Completed"}
            assert "finetune of" in (server.folder / "gpu.log").read_text()
            assert "finetune of" not in (server.folder / "default.log").read_text()

            # what fails there is told here, in the words of whatever refused
            change(project, weights="nowhere")
            failed = server.run("lifecycle/deployed", until="finetune")
            assert failed["state_type"] == "FAILED"
            assert "queue gpu" in failed["state"]["message"]
            assert "nowhere" in failed["state"]["message"]
            assert len(server.finetunings()) == 2

        change(project, weights=None)  # nobody works on the queue gpu now, and nothing has to
        again = server.run("lifecycle/deployed", until="infer")
        assert again["state_type"] == "COMPLETED", again["state"]["message"] + server.log()
        assert len(server.finetunings()) == 2

    # one model, in the MLflow of the same workspace
    models = server.olmoearth("models", project, "--json")
    assert len(models.json["models"]) == 1


@pytest.mark.verify
def test_a_lost_machine_costs_its_last_epoch(server: Server, tmp_path: Path, world: Path) -> None:
    project = make_project(tmp_path / "fields", world, training__epochs=30, name="lost")
    assert server.olmoearth("deploy", project).code == 0
    assert server.olmoearth("run", project, "--until", "preprocess").code == 0
    with server.worker("default"), server.worker("gpu"):
        killer = Thread(target=kill_in_the_middle, args=(project,))
        killer.start()
        run = server.run("lifecycle/lost", until="finetune")
        killer.join()
        assert run["state_type"] == "COMPLETED", run["state"]["message"] + server.log()
    assert [one["state_type"] for one in server.finetunings("lost")] == ["CRASHED", "COMPLETED"]
    answer = server.olmoearth("finetune", project, "--json")
    assert answer.json["skipped"] is True
    assert answer.json["record"]["resumed"] is True


def kill_in_the_middle(project: Path) -> None:
    """SIGKILL the process that fine-tunes, once it has left a checkpoint."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not list(project.glob(".olmoearth/work/finetune-*/.scratch/*.checkpoint")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    lock = str(project / ".olmoearth" / "stage.lock")
    for process in psutil.process_iter(["name"]):
        with suppress(psutil.Error):
            if any(file.path == lock for file in process.open_files()):
                process.kill()


def change(project: Path, **model: Any) -> None:
    settings = yaml.safe_load((project / "project.yaml").read_text())
    settings["model"] = {key: value for key, value in (settings["model"] | model).items() if value is not None}
    (project / "project.yaml").write_text(yaml.safe_dump(settings))


def test_a_name_that_is_deployed_for_another_folder(server: Server, tmp_path: Path, world: Path) -> None:
    assert server.olmoearth("deploy", make_project(tmp_path / "one", world, name="same")).code == 0
    refused = server.olmoearth("deploy", make_project(tmp_path / "two", world, name="same"))
    assert refused.code == 1
    assert str(tmp_path / "one") in refused.err


def test_without_a_server_there_is_nothing_to_deploy_on(home: Path, project: Path) -> None:
    server = Server(home, project)
    server.environment["PREFECT_API_URL"] = "http://user:secret@127.0.0.1:9/api"
    refused = server.olmoearth("deploy", project)
    assert refused.code == 1
    assert "PREFECT_API_URL http://127.0.0.1:9/api does not answer" in refused.err
    assert "secret" not in refused.err
    del server.environment["PREFECT_API_URL"]
    refused = server.olmoearth("deploy", project)
    assert refused.code == 1
    assert "PREFECT_API_URL" in refused.err
