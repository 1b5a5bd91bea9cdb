"""`make bench`: every benchmark, one after the other, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ALONE = (
    "bench_encoders.py",
    "training_set.py",
    "training_loop.py",
    "mapping.py",
    "mapping_crops.py",
    "scale.py",
    "fetch.py",
    "registry_events.py",
    "lineage.py",
)
"""Those that need neither data sets nor a trained project (seams.py needs one)."""


def main() -> None:
    calls = [[HERE / name] for name in ALONE]
    if data := os.environ.get("OLMOEARTH_TEST_DATA"):
        calls.append([HERE / "compose.py", Path(data) / "reservoir" / "catalog.json"])
        calls.append([HERE / "finetuning.py"])
    else:
        print("compose, finetuning: left out, OLMOEARTH_TEST_DATA does not name the real data sets")
    for call in calls:
        print(f"== {call[0].name}", flush=True)
        subprocess.run([sys.executable, *map(str, call)], check=True)


if __name__ == "__main__":
    main()
