"""Which software and which machine compute here: what may make the same work come out otherwise elsewhere."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

PYTHON = "python"


@cache
def packages() -> tuple[str, ...]:
    """`name==version` of every installed package and of Python itself, in lower case, sorted."""
    found = {f"{d.metadata['Name']}=={d.version}".lower() for d in distributions() if d.metadata["Name"]}
    return tuple(sorted({*found, f"{PYTHON}=={platform.python_version()}"}))


@cache
def hardware() -> dict[str, Any]:
    """Processor and GPUs of this machine, and how many cores this process may use."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpus": _gpus(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _gpus() -> list[str]:
    """Names of the NVIDIA devices, asked without torch, which takes seconds to import."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    asked = [program, "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []
