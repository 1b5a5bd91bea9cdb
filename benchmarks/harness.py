"""What every benchmark here shares: interleaved repeats in one process, and results that say where they come from."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "numpy", "olmoearth-pretrain-minimal")


Times = dict[str, list[float]]


def interleave(contenders: Mapping[str, Callable[[], Any]], *, repeats: int, warm_up: int = 1) -> tuple[Times, Times]:
    """Seconds of each call of each contender, taken in turn so that a slow minute of the machine hits all alike.

    Returns wall time, and the process's own CPU time, which on a machine that others use says more.
    """
    wall: Times = {name: [] for name in contenders}
    cpu: Times = {name: [] for name in contenders}
    for turn in range(warm_up + repeats):
        for name, call in contenders.items():
            start, busy = time.perf_counter(), time.process_time()
            call()
            if turn >= warm_up:
                wall[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - busy)
    return wall, cpu


def ratio(times: Times, slow: str, fast: str) -> float:
    """How many times faster `fast` is than `slow`: ratio of medians."""
    return statistics.median(times[slow]) / statistics.median(times[fast])


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    flags = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), [])
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "amx_bf16": "amx_bf16" in flags,
        "avx512_bf16": "avx512_bf16" in flags,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
    }


def write(name: str, rows: list[dict[str, Any]], **more: Any) -> Path:
    """Keep results as JSON under benchmarks/results, with the machine, its load and the time."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {
        "benchmark": name,
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "machine": machine(),
        "load_average": [round(x, 2) for x in os.getloadavg()],
        **more,
        "rows": rows,
    }
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table for docs/benchmarks.md."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def describe(found: Mapping[str, Any]) -> str:
    """Where figures come from, in a line."""
    m = found["machine"]
    kind = "AMX" if m["amx_bf16"] else "AVX512-BF16, no AMX" if m["avx512_bf16"] else "no bf16"
    return f"{m['cpu']} ({m['cores']} cores, {kind}), {found['when']}, load average {found['load_average'][0]}."


def put_section(name: str, title: str, text: str) -> None:
    """Write, or replace, one benchmark's section of docs/benchmarks.md; results/<name>.json says where from."""
    page = Path(__file__).parent.parent / "docs" / "benchmarks.md"
    first, last = f"<!-- {name}: written by make bench -->", f"<!-- end of {name} -->"
    where = describe(json.loads((RESULTS / f"{name}.json").read_text()))
    section = f"{first}\n## {title}\n\n{text.rstrip()}\n\n{where}\n\n{last}\n"
    content = page.read_text()
    if first in content:
        before, rest = content.split(first)
        content = before + section + rest.split(last + "\n", 1)[1]
    else:
        content = f"{content.rstrip()}\n\n{section}"
    page.write_text(content)
