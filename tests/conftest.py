"""Fixtures that every package's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# a deadline measures what else the machine is doing
settings.register_profile("house", deadline=None)
settings.load_profile("house")

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")


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
