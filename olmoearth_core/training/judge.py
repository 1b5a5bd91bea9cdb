"""Judging, for now."""

from __future__ import annotations

from typing import Any

from olmoearth_core.training.tally import tally


def judge(dataset: Any, rows: Any, answers_of: Any, out: Any, *, progress: Any, meter: Any) -> dict[str, Any]:
    """Scores."""
    found: dict[str, Any] = {"schema_version": 2, "temperatures": {}}
    for split in ("validation", "test"):
        for k, (name, task) in enumerate(dataset.tasks.items()):
            scores = tally(answers_of(split, name), task).scores()
            if k == 0:
                found[split] = scores | {"windows": len(rows[split])}
            else:
                found[split]["tasks"] = {name: scores}
    return found
