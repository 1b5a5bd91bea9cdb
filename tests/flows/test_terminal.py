"""What is printed, where, and what is not: for people on a terminal, and for machines that read JSON."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from shore import write_shore

import olmoearth_core
from flows.cli.app import _run


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["validate", "--nonsense", "--json"], "No such option: --nonsense"),
        (["search", "--trials", "0", "--json"], "'--trials': Input should be greater than or equal to 1"),
        (["search", "--trials", "many", "--json"], "'--trials': Input should be a valid integer"),
        (["vallidate", "--json"], "No such command 'vallidate'"),
    ],
)
def test_a_machine_is_told_why_its_usage_is_wrong(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(arguments, False, as_json=True) == 2
    told = capsys.readouterr()
    assert reason in json.loads(told.out)["error"]
    assert "see --help" in json.loads(told.out)["error"]
    assert reason in told.err  # as without --json


def test_other_ends_of_a_command_keep_their_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["validate", str(tmp_path / "gone"), "--json"], False, as_json=True) == 1
    assert "no such file" in json.loads(capsys.readouterr().out)["error"]
    assert _run(["validate", "--help"], False, as_json=True) == 0
    assert _run(["validate", "--nonsense"], False, as_json=False) == 2


def test_warnings_are_spelled_alike() -> None:
    """They are told by a dozen stages and commands; what is told by `note` begins with "Warning:"."""
    beginnings = [
        found
        for path in sorted(Path(olmoearth_core.__file__).parent.rglob("*.py"))
        for found in re.findall(r'note\(\s*f?"(\w+):', path.read_text())
        if found.lower() == "warning"
    ]
    assert len(beginnings) > 4
    assert set(beginnings) == {"Warning"}


def test_validate_looks_at_the_labels_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shore(tmp_path)
    assert _run(["validate", str(tmp_path)], False, as_json=False) == 0
    assert capsys.readouterr().err.count("Looking at the labels") == 1


CHATTER = """
import logging
from flows.cli.output import quiet_libraries
quiet_libraries(debug=%s)
from huggingface_hub.utils import logging as hub
from prefect.logging.configuration import setup_logging
setup_logging()
hub.get_logger("huggingface_hub.utils._http").warning("hub: Retrying in 1s [Retry 1/5].")
logging.getLogger("prefect._internal.concurrency").error("Service 'EventsWorker' failed to process item")
logging.getLogger("EventsWorker").error("EventsWorker: dropped")
hub.get_logger("huggingface_hub.file_download").error("hub: real")
logging.getLogger("rasterio").error("other: real")
"""


@pytest.mark.parametrize("debug", [False, True])
def test_a_partner_sees_errors_and_no_chatter(debug: bool, tmp_path: Path) -> None:
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "HF_"))}
    done = subprocess.run(
        [sys.executable, "-c", CHATTER % debug],
        capture_output=True,
        text=True,
        env={**mine, "PREFECT_HOME": str(tmp_path), "HF_HOME": str(tmp_path), "COLUMNS": "200"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "hub: real" in done.stderr
    assert "other: real" in done.stderr
    for chatter in ("Retrying in 1s", "failed to process item", "EventsWorker: dropped"):
        assert (chatter in done.stderr) == debug
