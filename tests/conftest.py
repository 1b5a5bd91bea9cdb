"""Fixtures that every package's tests share."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# a deadline measures what else the machine is doing
settings.register_profile("house", deadline=None)
settings.load_profile("house")

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results-json", metavar="PATH", help="write each test's outcome, seconds and figures to PATH")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """`make verify` leaves what it proved: outcomes, times, and the figures tests recorded by `record_property`."""
    if (path := config.getoption("--results-json")) is None:
        return
    reports = [
        r for outcome in ("passed", "failed", "skipped", "error") for r in terminalreporter.stats.get(outcome, [])
    ]
    rows = [
        {"test": r.nodeid, "outcome": r.outcome, "seconds": round(r.duration, 2), "figures": dict(r.user_properties)}
        for r in reports
    ]
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"machine": machine, "tests": rows}, indent=2) + "\n")


def _real_data() -> Path | None:
    folder = os.environ.get("OLMOEARTH_TEST_DATA")
    return Path(folder).resolve() if folder else None


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets (../shared/data); tests skip where OLMOEARTH_TEST_DATA does not name it."""
    folder = _real_data()
    if folder is None:
        pytest.skip("OLMOEARTH_TEST_DATA is not set: the real data sets are not here")
    return folder


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that tells what the toy stages (toy.py) did."""
    path = tmp_path / "log"
    path.touch()
    monkeypatch.setenv("TOY_LOG", str(path))
    return path
