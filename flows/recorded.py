"""The Python environment of a recorded run, made anew: the versions that were installed, and the code of that time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from flows.errors import FlowError
from olmoearth_core.machine import PYTHON
from olmoearth_core.progress import Progress
from olmoearth_core.store import write_text

OURS = "olmoearth-platform"
FIRST = ("pip", "setuptools", "wheel", "torch")
"""In this order, before all others: what builds packages, and torch, whose own builds no other index has."""


def make_environment(folder: Path, packages: Mapping[str, str], progress: Progress) -> Path:
    """Make a virtual environment with exactly these packages; its Python.

    Nothing is resolved: what was installed together is installed together. Takes minutes.

    Args:
        folder: where it goes.
        packages: name -> version, Python's own among them.
        progress: who listens.

    Raises:
        FlowError: no such Python is here, or a package is not to be had any more.
    """
    wanted = {name: version for name, version in packages.items() if name not in (OURS, PYTHON)}
    with progress.bar(f"making an environment of {len(wanted)} packages", 3) as advance:
        _call([_python(packages[PYTHON]), "-m", "venv", os.fspath(folder)], "the environment cannot be made")
        advance(1)
        python = folder / "bin" / "python"
        for name in FIRST:
            if name in wanted:
                _install(python, [f"{name}=={_public(wanted[name])}"])
        advance(1)
        listed = folder / "packages.txt"
        rest = [f"{name}=={version}\n" for name, version in wanted.items() if name not in FIRST]
        write_text(listed, "".join(rest))
        _install(python, ["--requirement", os.fspath(listed)])
        advance(1)
    return python


def run_in(python: Path, code: Path, folder: Path) -> None:
    """Make the map of the recipe in `folder` with this Python and the platform's packages in `code`.

    Raises:
        FlowError: it failed, with what it said.
    """
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "VIRTUAL_ENV")}
    environment = {**kept, "PYTHONPATH": os.fspath(code)}
    command = [os.fspath(python), "-m", "olmoearth_core.again", os.fspath(folder)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise FlowError(f"{folder}: the code of that time says: {said[0][:500]}")


def _public(version: str) -> str:
    """The version as an index knows it: `2.13.0+cpu` is a build of 2.13.0."""
    return version.partition("+")[0]


def _python(version: str) -> str:
    minor = ".".join(version.split(".")[:2])
    if f"{sys.version_info[0]}.{sys.version_info[1]}" == minor:
        return getattr(sys, "_base_executable", sys.executable)
    found = shutil.which(f"python{minor}")
    if found is None:
        raise FlowError(f"The map was made by Python {version}; install python{minor}, or use --environment current.")
    return found


def _install(python: Path, what: list[str]) -> None:
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps"]
    _call([os.fspath(python), "-m", "pip", "install", *quiet, *what], "a package of that time cannot be installed")


def _call(command: list[str], failed: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error")] or lines[-1:] or ["no reason"]
        raise FlowError(f"{failed}: {' '.join(errors[-1].split())[:500]}")
