"""Whether a map can be made again: what its runs read and were made by, where `olmoearth reproduce` looks for it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from olmoearth_core.project import PROJECT_FILE
from olmoearth_core.stages import STAGES
from registry.audit.case import Case
from registry.audit.report import Check
from registry.errors import ArtifactError
from registry.inputs import was_fetched
from registry.objects import fetch, store_of
from registry.reproduce.behind import Behind
from registry.tables import schema

AGAIN = "can be made again"
MAPPING = ("infer", "postprocess")


def check_again(case: Case) -> Iterator[Check]:
    """Everything that was kept of the map's runs is there, with the bytes of its checksum.

    Model and training set have checks of their own (MLflow, DVC). What lacks takes nothing from the verdict: the map
    stays what it is. Stores that no setting names are not asked.
    """
    made, alike = case.found.map, case.origin.alike
    if made is None or any(not alike.get(stage) for stage in MAPPING):
        return
    behind = Behind(made, None, alike)
    runs = [behind.run(stage) for stage in MAPPING]
    named = dict.fromkeys([store_of(case.workspace), *(run.store for run in runs if run.store)])
    stores = [store for store in named if store == store_of(case.workspace) or Path(store).is_dir()]
    if all(run.store and run.store not in stores for run in runs):
        return
    wanted = [one for run in runs for one in _wanted(run)]
    lacking = [problem for what, digest in wanted if (problem := _lacks(stores, what, digest))]
    if lacking:
        detail = f"incomplete: {len(lacking)} of {len(wanted)} things are not kept; `olmoearth reproduce` may need them"
        yield Check(AGAIN, "changed", detail, lacking)
    else:
        yield Check(AGAIN, "ok", f"complete: {len(wanted)} things that its runs read or were made by are kept")


def _wanted(run: schema.Run) -> Iterator[tuple[str, str | None]]:
    """(What, its sha256) of all that a run kept; None where nothing was. Who made what was found, nobody knows."""
    yield f"{PROJECT_FILE} of {run.stage}", run.project_sha256
    for name, digest in run.inputs.items():
        if name not in STAGES and not was_fetched(run.settings, name):
            yield f"{name} of {run.stage}", str(digest)
    if run.status == "computed":
        yield f"the platform's code of {run.stage}", run.code_sha256
        yield f"the list of packages of {run.stage}", run.environment_sha256


def _lacks(stores: list[str], what: str, digest: str | None) -> str:
    """What is wrong with a kept thing; empty where nothing is."""
    if digest is None:
        return f"{what}: was not kept"
    with tempfile.TemporaryDirectory(prefix="olmoearth-kept-") as temporary:
        try:
            return "" if fetch(stores, digest, Path(temporary) / "object") else f"{what}: {digest} is not kept any more"
        except ArtifactError as error:
            return f"{what}: {error}"
