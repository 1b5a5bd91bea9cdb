"""The checks of an audit: every file of a lineage against the registry, and the registry against itself and MLflow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from registry.case import Case
from registry.identity import check_file, check_tags
from registry.inputs import check_inputs
from registry.mlflow_checks import check_mlflow
from registry.report import Check
from registry.rows import check_chain, check_key, check_rows


def check_stages(case: Case) -> Iterator[Check]:
    """Of each stage behind the thing: what it left, its key, the files that it read."""
    for run in case.origin.runs:
        held = case.held[run.stage]
        yield held.check
        yield check_key(run, case.origin.alike[run.stage], held.output)
        if (inputs := check_inputs(run, case.roots(run))) is not None:
            yield inputs


CHECKS: tuple[Callable[[Case], Iterable[Check]], ...] = (
    check_file,
    check_tags,
    check_chain,
    check_stages,
    check_rows,
    check_mlflow,
)
"""What an audit checks, in the order it is told."""


def verify(case: Case) -> list[Check]:
    """Every check of a case."""
    return [check for checks in CHECKS for check in checks(case)]
