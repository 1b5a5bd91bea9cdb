"""A deployed project: fine-tuning runs on the worker of the queue `gpu`, the rest on that of `default`."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
import yaml
from partner import Command, command_environment, make_project

BIN = Path(sys.executable).parent
DEADLINE_SECONDS = 240


class Server:
    """A Prefect server on this machine, workers of it, and what a partner's shell needs to talk to it."""

    def __init__(self, home: Path, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.folder = folder
        self.environment = command_environment(home) | {
            "PREFECT_HOME": str(folder),
            "PREFECT_API_URL": self.api,
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
        }

    @contextmanager
    def running(self, name: str, *arguments: str) -> Iterator[None]:
        """`prefect ARGUMENTS` in the background, and nothing left of it or its children afterwards."""
        with (self.folder / f"{name}.log").open("w") as log:
            process = psutil.Popen(
                [str(BIN / "prefect"), *arguments], env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            yield
        finally:
            family = [*process.children(recursive=True), process]
            process.terminate()
            _, alive = psutil.wait_procs(family, timeout=15)
            for left in alive:
                left.kill()
            psutil.wait_procs(alive, timeout=15)

    def worker(self, queue: str) -> Any:
        """A worker of one queue of the pool, as its operator starts it."""
        return self.running(queue, "worker", "start", "--pool", "olmoearth", "--work-queue", queue, "--name", queue)

    def ask(self, path: str, **question: Any) -> Any:
        """POST a question (GET without one) to the API; again where its SQLite is locked, as Prefect's client does."""
        body = json.dumps(question).encode() if question else None
        request = urllib.request.Request(self.api + path, body, {"Content-Type": "application/json"})
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:  # 503: nothing was written, ask again
                if error.code != 503 or time.monotonic() > deadline:
                    raise
            time.sleep(1)

    def log(self) -> str:
        """What server and workers said, for a test that failed."""
        return "\n".join(path.read_text()[-3000:] for path in sorted(self.folder.glob("*.log")))

    def olmoearth(self, *arguments: str | Path) -> Command:
        return Command(
            subprocess.run(
                [str(BIN / "olmoearth"), *map(str, arguments)],
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=DEADLINE_SECONDS,
            )
        )

    def run(self, deployment: str, **parameters: Any) -> dict[str, Any]:
        """Ask for a run of a deployment; returns the flow run when it has ended."""
        found = self.ask(f"/deployments/name/{deployment}")
        run: dict[str, Any] = self.ask(f"/deployments/{found['id']}/create_flow_run", parameters=parameters)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while run["state_type"] not in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.3)
            run = self.ask(f"/flow_runs/{run['id']}")
        return run

    def tasks(self, run: dict[str, Any]) -> dict[str, str]:
        """Task run of a flow run -> how it ended."""
        asked = self.ask("/task_runs/filter", flow_runs={"id": {"any_": [run["id"]]}})
        return {task["name"]: task["state_name"] for task in asked}

    def finetunings(self, project: str = "deployed") -> list[dict[str, Any]]:
        """Flow runs of a project's fine-tuning, oldest first."""
        asked: list[dict[str, Any]] = self.ask(
            "/flow_runs/filter",
            flows={"name": {"any_": ["finetune"]}},
            deployments={"name": {"any_": [project]}},
            sort="START_TIME_ASC",
        )
        return asked


@pytest.fixture(scope="module")
def server(shared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("prefect")
    server = Server(shared_home, folder)
    with server.running("server", "server", "start", "--host", "127.0.0.1", "--port", str(server.port)):
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                server.ask("/health")
                break
            except OSError:
                assert time.monotonic() < deadline, server.log()
                time.sleep(0.2)
        yield server


def test_finetuning_goes_to_the_gpu_queue_and_the_rest_elsewhere(server: Server, tmp_path: Path, world: Path) -> None:
    project = make_project(tmp_path / "fields", world, training__epochs=1, name="deployed")
    for _ in range(2):  # deploying again changes nothing
        made = server.olmoearth("deploy", project, "--json")
        assert made.code == 0, made.err + made.out
        assert [d["queue"] for d in made.json["deployments"]] == ["default", "gpu"]
    assert len(server.ask("/deployments/filter", deployments={"tags": {"all_": ["deployed"]}})) == 2
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
    refused = server.olmoearth("deploy", project)
    assert refused.code == 1
    assert "does not answer" in refused.err
    del server.environment["PREFECT_API_URL"]
    refused = server.olmoearth("deploy", project)
    assert refused.code == 1
    assert "PREFECT_API_URL" in refused.err
