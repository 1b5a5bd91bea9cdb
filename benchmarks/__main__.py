"""`make bench`: every benchmark, one after the other, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    calls = [[HERE / "bench_encoders.py"], [HERE / "training_set.py"], [HERE / "fetch.py"]]
    if data := os.environ.get("OLMOEARTH_TEST_DATA"):
        calls.append([HERE / "compose.py", Path(data) / "reservoir" / "catalog.json"])
    else:
        print("compose: left out, OLMOEARTH_TEST_DATA does not name the real data sets")
    for call in calls:
        print(f"== {call[0].name}", flush=True)
        subprocess.run([sys.executable, *map(str, call)], check=True)


if __name__ == "__main__":
    main()
