"""Fine-tuning on real data: what a small encoder adds to an index, a random forest or a frozen probe.

    OMP_NUM_THREADS=1 OLMOEARTH_TEST_DATA=... python benchmarks/finetuning.py [reservoir] [eurosat] [forest]

Each experiment chooses its plans on training data alone, keeps the last epoch, and reads the test once. The test is not
in the loop: what is to be tried is written in the experiment's file before it is run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import finetuning_eurosat
import finetuning_forest
import finetuning_reservoir
import harness
from learning import shown

EXPERIMENTS: dict[str, Callable[[], dict[str, Any]]] = {
    "reservoir": finetuning_reservoir.experiment,
    "eurosat": finetuning_eurosat.experiment,
    "forest": finetuning_forest.experiment,
}
TITLES = {
    "another_day": ("Reservoir, another day", "IoU of water on 2021-07-16, learned on 2020-06-21 and 2020-09-14", 0.92),
    "another_half": ("Reservoir, another half", "IoU of water east on 2020-06-21, learned in the west", 0.96),
    "eurosat": ("EuroSAT, 200 patches", "accuracy over five folds, every patch answered once", 0.88),
    "forest": ("Tree cover in Romania", "R2 of the east half, learned in the west, twelve monthly medians", 0.90),
}
"""Table -> title, what is scored, and the goal."""


def main(names: list[str]) -> None:
    """Run the experiments named, keep them beside those that ran before, write the section of docs/benchmarks.md."""
    path = harness.RESULTS / "finetuning.json"
    known = {table["table"]: table for table in json.loads(path.read_text())["rows"]} if path.exists() else {}
    for name in names or EXPERIMENTS:
        found = EXPERIMENTS[name]()
        parts = {name: found} if "rows" in found else found
        known |= {table: {"table": table} | part for table, part in parts.items()}
    harness.write("finetuning", [known[table] for table in TITLES if table in known])
    text = "\n".join([INTRODUCTION, *(_table(known[table]) for table in TITLES if table in known)])
    harness.put_section("finetuning", "Fine-tuning", text)
    print(text)


INTRODUCTION = """\
What is chosen (loss, head, learning rate) is chosen on training data alone, among what
`benchmarks/finetuning_*.py` list; the last epoch of one seed is kept, and the test is read once. In brackets 95 %
intervals from resampled blocks of ground (of EuroSAT: patches); they say nothing of other seeds. Differences are
paired: same pixels, same blocks. "pretrained" is Galileo nano with its published weights.
"""


def _table(found: dict[str, Any]) -> str:
    title, what, goal = TITLES[found["table"]]
    others = list(found["rows"][0]["differences"] | found["rows"][-1]["differences"])
    rows = [
        [
            line["model"],
            shown(line["score"]),
            *(shown(line["differences"][o], signed=True) if o in line["differences"] else "" for o in others),
        ]
        for line in found["rows"]
    ]
    return f"### {title}\n\nScore: {what}. The goal: {goal}.\n\n" + harness.markdown(
        ["model", "score", *(f"less {other}" for other in others)], rows
    )


if __name__ == "__main__":
    main(sys.argv[1:])
