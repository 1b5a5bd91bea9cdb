"""A Prefect server of this machine, its workers, and what a partner's shell needs to talk to it."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from partner import Command, command_environment

BIN = Path(sys.executable).parent
DEADLINE_SECONDS = 240


class Server:
    """A Prefect server on this machine, workers of it, and what a partner's shell needs to talk to it."""

    def __init__(self, home: Path, folder: Path, **settings: str) -> None:
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
            "PYTHONTZPATH": "",  # as docs/retraining.md starts it
            **settings,
        }

    @contextmanager
    def started(self) -> Iterator[None]:
        """The server, answering."""
        with self.running("server", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)):
            deadline = time.monotonic() + DEADLINE_SECONDS
            while True:
                try:
                    with urllib.request.urlopen(self.api + "/health", timeout=60):
                        break
                except OSError:
                    assert time.monotonic() < deadline, self.log()
                    time.sleep(0.2)
            yield

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
        """POST a question (GET without one) to the API; again where its SQLite is locked, as Prefect's client does.

        Locked for long it answers nothing at all: then what only asks is asked again.
        """
        body = json.dumps(question).encode() if question else None
        headers = {"Content-Type": "application/json"}
        if login := self.environment.get("PREFECT_API_AUTH_STRING"):
            headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        request = urllib.request.Request(self.api + path, body, headers)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:  # 503: nothing was written, ask again
                if error.code != 503 or time.monotonic() > deadline:
                    raise
            except TimeoutError:
                if body is not None or time.monotonic() > deadline:
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
        return self.ended(run)

    def ended(self, run: dict[str, Any]) -> dict[str, Any]:
        """A flow run, when it has ended."""
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
