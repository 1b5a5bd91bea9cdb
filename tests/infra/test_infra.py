"""infra/: the compose file and the Dockerfile parse, and name only settings, commands, options and files that exist.

There is no Docker where these tests run: what can be run without it (the database script, the buckets) is run on real
servers, the rest is held against the programs themselves.
"""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
ENVIRONMENT = {
    "POSTGRES_USER": "olmoearth", "POSTGRES_PASSWORD": "p4ss", "S3_ACCESS_KEY": "key", "S3_SECRET_KEY": "secret",
    "PROJECTS": "./projects",
}  # fmt: skip


def _interpolate(text: str) -> str:
    """Compose's ${NAME}, ${NAME:?message} and $$."""
    return re.sub(r"\$\{(\w+)(?::\?[^}]*)?\}", lambda found: ENVIRONMENT[found[1]], text).replace("$$", "$")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(_interpolate((INFRA / "compose.yaml").read_text()))
    return loaded


@pytest.fixture(scope="module")
def settings(compose: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Service -> its environment."""
    return {name: service.get("environment", {}) for name, service in compose["services"].items()}


def test_the_services_of_the_house(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {
        "postgres", "store", "buckets", "prefect", "mlflow", "worker", "trainer", "scheduler", "mapper",
    }  # fmt: skip
    for name, service in compose["services"].items():
        for other, condition in service.get("depends_on", {}).items():
            assert other in compose["services"], name
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in compose["services"][other], other


def test_every_olmoearth_setting_exists_and_the_worker_sets_them_all(settings: dict[str, dict[str, str]]) -> None:
    from registry.workspace import Workspace

    known = set(Workspace.setting_names())
    for service, environment in settings.items():
        assert {name for name in environment if name.startswith("OLMOEARTH_")} <= known, service
    assert known <= set(settings["worker"])
    assert settings["trainer"] == settings["worker"]


def test_the_worker_s_settings_make_a_workspace(
    settings: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from registry.workspace import Workspace

    for name, value in settings["worker"].items():
        monkeypatch.setenv(name, value)
    workspace = Workspace.from_environment()
    assert workspace.registry_url == "postgresql+psycopg2://olmoearth:p4ss@postgres:5432/registry"
    assert workspace.tracking_uri == "http://mlflow:5000"
    assert (workspace.artifacts, workspace.dvc_remote) == ("s3://artifacts", "s3://datasets")


def test_every_prefect_setting_exists(settings: dict[str, dict[str, str]]) -> None:
    from prefect import settings as prefect

    used = {name for environment in settings.values() for name in environment if name.startswith("PREFECT_")}
    assert {"PREFECT_API_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL"} <= used
    assert not [name for name in used if not hasattr(prefect, name)]
    assert not hasattr(prefect, "PREFECT_NO_SUCH_SETTING")
    assert settings["prefect"]["PREFECT_SERVER_DATABASE_CONNECTION_URL"].startswith("postgresql+asyncpg://")


def test_every_mlflow_setting_exists(settings: dict[str, dict[str, str]]) -> None:
    from mlflow import environment_variables

    used = {name for environment in settings.values() for name in environment if name.startswith("MLFLOW_")}
    assert {"MLFLOW_TRACKING_URI", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"} <= used
    known = {variable.name for variable in vars(environment_variables).values() if hasattr(variable, "name")}
    assert used <= known
    assert settings["mlflow"]["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


def test_every_image_is_pinned(compose: dict[str, Any]) -> None:
    base = re.search(r"^FROM (\S+)$", (INFRA / "Dockerfile").read_text(), re.MULTILINE)
    assert base
    for image in (base[1], *(service["image"] for service in compose["services"].values())):
        assert re.fullmatch(r"[\w./-]+:\d+\.\d+[\w.-]*", image), image


def test_no_secret_stands_in_the_compose_file() -> None:
    text = (INFRA / "compose.yaml").read_text()
    named = set(re.findall(r"\$\{(\w+)", text)) - {"OLMOEARTH_CODE_COMMIT"}  # no secret: exported for the build
    example = dict(
        line.split("=", 1)
        for line in (INFRA / ".env.example").read_text().splitlines()
        if "=" in line and line[0] != "#"
    )
    assert named == set(example) == set(ENVIRONMENT)
    for name, value in example.items():
        assert f"${{{name}:?" in text, f"{name} may be left empty without a word"
        assert not value or name in ("POSTGRES_USER", "PROJECTS")
    for line in text.splitlines():
        if re.search(r"(?i)(password|secret)\w*\s*:", line.split("#")[0]):
            assert "${" in line, line
    assert ".env" in (INFRA / ".gitignore").read_text().split()


def test_files_that_are_mounted_exist(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./") and source != ENVIRONMENT["PROJECTS"]:
                assert (INFRA / source).is_file(), source
            elif not source.startswith("."):
                assert source in compose["volumes"]
        if "build" in service:
            assert (INFRA / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        for config in service.get("configs", []):
            assert config["source"] in compose["configs"]


def test_commands_of_our_image_are_understood(compose: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's type hints warn of themselves
        from mlflow.cli import cli as mlflow

    command = compose["services"]["mlflow"]["command"]
    assert command[:2] == ["mlflow", "server"]
    context = mlflow.commands["server"].make_context("server", list(command[2:]))
    assert context.params["backend_store_uri"].startswith("postgresql+psycopg2://")
    assert context.params["allowed_hosts"].split(",")[0] == "mlflow:5000"

    for service, words in (("prefect", 3), ("worker", 3), ("scheduler", 2), ("mapper", 2)):
        command = compose["services"][service]["command"]
        known = subprocess.run(
            [Path(sys.executable).with_name(command[0]), *command[1:words], "--help"],
            capture_output=True, text=True, check=True, timeout=120, env={**os.environ, "COLUMNS": "200"},
        ).stdout  # fmt: skip
        for option in (word for word in command[words:] if word.startswith("--")):
            assert re.search(rf"{option}\b", known), f"{service}: {option}"


def _instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile: (name, arguments), continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def test_the_dockerfile_parses_and_copies_what_exists() -> None:
    instructions = _instructions((INFRA / "Dockerfile").read_text())
    allowed = {"FROM", "RUN", "ENV", "WORKDIR", "ARG", "COPY", "USER", "CMD"}
    assert {name for name, _ in instructions} <= allowed
    assert instructions[0][0] == "FROM"
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for name, rest in instructions:
        if name == "COPY":
            *sources, _target = rest.split()
            copied |= set(sources)
            for source in sources:
                assert (ROOT / source).exists(), source
        elif name == "RUN":
            shlex.split(rest)
            subprocess.run(["/bin/sh", "-n", "-c", rest], check=True)
        elif name == "CMD":
            assert json.loads(rest)[0] == "olmoearth"
    assert copied == kept
    assert [rest for name, rest in instructions if name == "USER"] == ["olmoearth"]


def test_the_database_script_runs_on_postgresql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # pgserver warns where there is none
    import pgserver
    import psycopg2

    server = pgserver.get_server(tmp_path / "data", cleanup_mode="delete")
    try:
        script = re.sub(r"--.*", "", (INFRA / "databases.sql").read_text())
        connection = psycopg2.connect(server.get_uri())
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in filter(None, map(str.strip, script.split(";"))):
                cursor.execute(statement)
            cursor.execute("SELECT datname FROM pg_database")
            assert {"registry", "mlflow", "prefect"} <= {name for (name,) in cursor.fetchall()}
        connection.close()
    finally:
        server.cleanup()


def _free_ports(count: int) -> list[int]:
    """Ports in a row that are free, and so are those 10000 above them, where SeaweedFS puts its gRPC.

    All lie below 32768, where the system takes the ports of outgoing connections from.
    """
    for first in random.sample(range(12000, 22000), 100):
        ports = range(first, first + count)
        try:
            for port in (*ports, *(p + 10000 for p in ports)):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return list(ports)
    raise AssertionError("no free ports")


@pytest.fixture(scope="module")
def store(compose: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real SeaweedFS with the compose file's options and identities; yields its endpoint."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "s3.json").write_text(compose["configs"]["identities"]["content"])
    replaced = {"-dir=/data": f"-dir={folder}", "-ip=store": "-ip=127.0.0.1", "-ip.bind=0.0.0.0": "-ip.bind=127.0.0.1",
                "-s3.config=/etc/seaweedfs/s3.json": f"-s3.config={folder / 's3.json'}"}  # fmt: skip
    command = [replaced.get(word, word) for word in compose["services"]["store"]["command"]]
    port, *others = _free_ports(4)
    ports = [f"-{part}.port={number}" for part, number in zip(("master", "volume", "filer"), others, strict=True)]
    weed = Path(sys.executable).with_name("weed")
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [
                weed,
                *command,
                *ports,
                f"-s3.port={port}",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                "-master.volumeSizeLimitMB=64",
            ],
            stdout=log,
            stderr=log,
        )
        try:
            yield _until_healthy(f"http://127.0.0.1:{port}", compose, server, folder / "log")
        finally:
            server.kill()  # nothing in it is worth a graceful end
            server.wait(30)


def _until_healthy(endpoint: str, compose: dict[str, Any], server: subprocess.Popen[bytes], log: Path) -> str:
    """Ask as the compose file's health check does."""
    check = compose["services"]["store"]["healthcheck"]["test"][1]
    address = check.split()[-1].replace("http://127.0.0.1:8333", endpoint)
    for _ in range(240):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=5):
                return endpoint
        except OSError:
            time.sleep(0.25)
    raise AssertionError(log.read_text())


def test_the_buckets_are_made_once_and_wrong_keys_are_refused(
    store: str, compose: dict[str, Any], settings: dict[str, dict[str, str]]
) -> None:
    environment = {**os.environ, **settings["buckets"], "AWS_ENDPOINT_URL": store}
    command = compose["services"]["buckets"]["command"]
    wanted = command[2:]
    for _ in range(2):  # the second time everything is there
        subprocess.run([sys.executable, INFRA / "buckets.py", *wanted], env=environment, check=True, timeout=120)
    client = boto3.client(
        "s3", endpoint_url=store, region_name="us-east-1",
        aws_access_key_id=ENVIRONMENT["S3_ACCESS_KEY"], aws_secret_access_key=ENVIRONMENT["S3_SECRET_KEY"],
    )  # fmt: skip
    assert {bucket["Name"] for bucket in client.list_buckets()["Buckets"]} == set(wanted)
    worker = settings["worker"]
    assert {worker[f"OLMOEARTH_{name}"] for name in ("ARTIFACTS", "DVC_REMOTE", "EXCHANGE")} == {
        f"s3://{name}" for name in wanted
    }

    wrong = subprocess.run(
        [sys.executable, INFRA / "buckets.py", "other"],
        env={**environment, "AWS_SECRET_ACCESS_KEY": "guess"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert wrong.returncode != 0
    assert "SignatureDoesNotMatch" in wrong.stderr
