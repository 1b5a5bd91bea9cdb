"""A new user's way, with a stopwatch: imagery and one label file, four commands, a map that audits; no file edited."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from partner import command_environment

MINUTES, COMMANDS = 10, 10


@pytest.mark.verify
def test_the_first_map_of_the_reservoir(
    real_data: Path, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    given = real_data / "reservoir"
    labels = given / "labels" / "water_2020-06-21.geojson"
    commands = [
        ["init", "lake", "--template", "water", "--labels", str(labels), "--catalogue", str(given)],
        ["validate", "lake"],
        ["run", "lake"],
        ["audit"],
    ]
    began = time.monotonic()
    for command in commands:
        if command == ["audit"]:
            [made] = (tmp_path / "lake" / "maps").glob("*/map.tif")
            command.append(str(made))
        started = time.monotonic()
        done = subprocess.run(
            [str(Path(sys.executable).parent / "olmoearth"), *command],
            cwd=tmp_path, env=command_environment(tmp_path / "home"), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        record_property(f"{command[0]}_seconds", round(time.monotonic() - started, 1))
    assert "VERIFIED" in done.stdout
    seconds = time.monotonic() - began
    record_property("commands", len(commands))
    record_property("seconds", round(seconds, 1))
    assert len(commands) < COMMANDS
    assert seconds < 60 * MINUTES
