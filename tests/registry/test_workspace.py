"""The workspace: its settings from the environment, and what it refuses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from registry.errors import SettingError
from registry.workspace import Workspace


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OLMOEARTH_") or name == "MLFLOW_TRACKING_URI":
            monkeypatch.delenv(name)


def test_everything_is_below_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OLMOEARTH_HOME", str(tmp_path))
    found = Workspace.from_environment()
    assert found == Workspace.at(tmp_path)
    assert found.registry_url == f"sqlite:///{tmp_path}/registry.db"
    assert found.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert found.artifacts == f"{tmp_path}/artifacts"
    assert found.dvc_remote == f"{tmp_path}/dvc-remote"


def test_home_by_default_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Workspace.from_environment().home == tmp_path / ".olmoearth"


def test_every_setting_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    values = {
        "OLMOEARTH_HOME": str(tmp_path),
        "OLMOEARTH_REGISTRY_URL": "postgresql+psycopg2://me:secret@db/registry",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "OLMOEARTH_ARTIFACTS": "s3://bucket/artifacts/",
        "OLMOEARTH_DVC_REMOTE": "s3://bucket/dvc",
        "OLMOEARTH_TEMPLATES": str(tmp_path / "ours"),
        "OLMOEARTH_EXCHANGE": "s3://bucket/exchange/",
        "OLMOEARTH_DASK_SCHEDULER": "tcp://dask:8786",
        "OLMOEARTH_SIGNING_KEY": "/secrets/signing.pem",
        "OLMOEARTH_TRUSTED_KEYS": "/etc/olmoearth/trusted.pub",
    }
    assert set(values) == set(Workspace.setting_names())
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    found = Workspace.from_environment()
    assert found == Workspace(
        tmp_path,
        "postgresql+psycopg2://me:secret@db/registry",
        "http://mlflow:5000",
        "s3://bucket/artifacts",
        "s3://bucket/dvc",
        tmp_path / "ours",
        "s3://bucket/exchange",
        "tcp://dask:8786",
        "/secrets/signing.pem",
        "/etc/olmoearth/trusted.pub",
    )
    assert "/secrets" not in repr(found)
    assert all(Workspace.settings().values()), "every setting says what it is for"


def test_an_empty_setting_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OLMOEARTH_HOME", str(tmp_path))
    monkeypatch.setenv("OLMOEARTH_REGISTRY_URL", "")
    assert Workspace.from_environment() == Workspace.at(tmp_path)


def test_a_misspelt_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLMOEARTH_REGISTRY_URI", "sqlite:////tmp/x.db")
    with pytest.raises(SettingError, match=r"OLMOEARTH_REGISTRY_URI: no such setting.*OLMOEARTH_REGISTRY_URL"):
        Workspace.from_environment()


@pytest.mark.parametrize("name", ["OLMOEARTH_TEST_DATA", "OLMOEARTH_CODE_COMMIT"])
def test_variables_that_are_no_settings(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "something")
    Workspace.from_environment()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("OLMOEARTH_REGISTRY_URL", "postgresql://me:secret@db/r", "postgresql\\+psycopg2:// in full"),
        ("OLMOEARTH_REGISTRY_URL", "postgres://me:secret@db/r", "postgresql\\+psycopg2:// in full"),
        ("OLMOEARTH_REGISTRY_URL", "mysql://me:secret@db/r", "allowed are sqlite"),
        ("OLMOEARTH_REGISTRY_URL", "registry.db", "allowed are sqlite"),
        ("MLFLOW_TRACKING_URI", "/data/mlruns", "is a folder"),
        ("MLFLOW_TRACKING_URI", "postgresql://me:secret@db/r", "postgresql\\+psycopg2:// in full"),
        ("OLMOEARTH_ARTIFACTS", "ftp://host/x", "allowed are a folder and s3://"),
        ("OLMOEARTH_DVC_REMOTE", "gs://host/x", "allowed are a folder and s3://"),
        ("OLMOEARTH_DASK_SCHEDULER", "dask:8786", "no address of a scheduler like tcp://host:8786"),
    ],
)
def test_a_value_that_cannot_work(monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingError, match=f"^{name}: .*{reason}") as caught:
        Workspace.from_environment()
    assert "secret" not in str(caught.value)
