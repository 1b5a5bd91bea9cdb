"""The checks of an audit: every file of a lineage against the registry, and the registry against itself and MLflow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from registry.audit.again import check_again
from registry.audit.case import Case
from registry.audit.files import check_dvc
from registry.audit.identity import check_file, check_tags
from registry.audit.imagery import check_imagery
from registry.audit.mlflow_checks import check_mlflow
from registry.audit.report import Check
from registry.audit.rows import check_chain, check_key, check_rows
from registry.chain.verify import verify_map, verify_registry
from registry.inputs import check_inputs


def check_stages(case: Case) -> Iterator[Check]:
    """Of each stage behind the thing: what it left, its key, the files that it read."""
    for run in case.origin.runs:
        held = case.held[run.stage]
        yield held.check
        yield check_key(run, case.origin.alike[run.stage], held.output)
        if (inputs := check_inputs(run, case.roots(run))) is not None:
            yield inputs
        if held.output is not None and (kept := check_dvc(run, case.roots(run))) is not None:
            yield kept


def check_record(case: Case) -> Iterator[Check]:
    """The rows behind a map as their events vouch for them, its signed statement, and the chain's tags."""
    made, path = case.found.map, case.thing.path
    if made is None:
        return
    beside = [path.parent if case.thing.file is not None else path] if path is not None else []
    recorded = [root / made.run.folder for root in case.roots(made.run)]
    yield from verify_map(case.session, case.workspace, made, [*beside, *recorded], case.thing.claims)


def check_registry(case: Case) -> Iterator[Check]:
    """The whole registry against its chain of events, and the chain against what left the house."""
    yield from verify_registry(case.session)


CHECKS: tuple[Callable[[Case], Iterable[Check]], ...] = (
    check_file,
    check_tags,
    check_chain,
    check_stages,
    check_rows,
    check_mlflow,
    check_record,
    check_again,
)
"""What an audit checks, in the order it is told."""


def identify(case: Case) -> list[Check]:
    """Whether the thing at hand is what it is taken for, and no more."""
    return _all(case, (check_file, check_tags))


def verify(case: Case, *, imagery: bool = False, registry: bool = False) -> list[Check]:
    """Everything behind the thing.

    Args:
        case: the thing.
        imagery: also its scenes' files as they are now; servers are asked.
        registry: also every event and row of the registry; a million take a minute.
    """
    also = [check for check, asked in ((check_imagery, imagery), (check_registry, registry)) if asked]
    return _all(case, (*CHECKS, *also))


def _all(case: Case, checks: Sequence[Callable[[Case], Iterable[Check]]]) -> list[Check]:
    return [check for some in checks for check in some(case)]
