"""Which software and which machine compute here: what may make the same work come out otherwise elsewhere."""

from __future__ import annotations

import os
import platform
import re
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

PYTHON = "python"
CPU_INFO = Path("/proc/cpuinfo")
NVIDIA = Path("/proc/driver/nvidia/gpus")


@cache
def packages() -> tuple[str, ...]:
    """`name==version` of every installed package and of Python itself, in lower case, sorted."""
    found = {f"{d.metadata['Name']}=={d.version}".lower() for d in distributions() if d.metadata["Name"]}
    return tuple(sorted({*found, f"{PYTHON}=={platform.python_version()}"}))


@cache
def hardware() -> dict[str, Any]:
    """This host: processor (name), machine (architecture), cores, memory_bytes, gpus (names; NVIDIA's on Linux)."""
    return {
        "processor": _first(CPU_INFO, r"model name\s*:\s*(.+)") or platform.processor() or "unknown",
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": _memory(),
        "gpus": [_first(path, r"Model:\s*(.+)") or "unknown" for path in sorted(NVIDIA.glob("*/information"))],
    }


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # not on this system
        return None


def _first(path: Path, pattern: str) -> str | None:
    try:
        found = re.search(pattern, path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return found.group(1).strip() if found else None
