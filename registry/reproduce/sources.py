"""Where files of a run are looked for by their sha256: in the stores where runs kept them, then in project folders."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from olmoearth_core.digest import sha256_file
from olmoearth_core.store import write_bytes
from registry.errors import ArtifactError, ReproduceError
from registry.objects import fetch, store_of
from registry.tables import schema
from registry.workspace import Workspace


class Sources:
    """The workspace's store, those that the runs name, and the project folders that they were made in."""

    def __init__(self, workspace: Workspace, runs: Iterable[schema.Run]) -> None:
        runs = list(runs)
        self.stores = list(dict.fromkeys([store_of(workspace), *(run.store for run in runs if run.store)]))
        self.roots = [Path(folder) for folder in dict.fromkeys(run.project_folder for run in runs)]

    def give(self, digest: str, target: Path, what: str, candidates: Iterable[Path] = ()) -> None:
        """Copy the file with this sha256 to `target`.

        Raises:
            ReproduceError: nobody has it.
            ArtifactError: the store that may have it cannot be reached.
        """
        if not self.find(digest, target, candidates):
            raise ReproduceError(
                f"{what} (sha256 {digest[:16]}...) is neither kept in {', '.join(self.stores)} nor in a project folder "
                "here; without it the map cannot be made again. Set OLMOEARTH_ARTIFACTS to the store of that time."
            )

    def find(self, digest: str, target: Path, candidates: Iterable[Path] = ()) -> bool:
        """As `give`; False where nobody has it."""
        try:
            if fetch(self.stores, digest, target):
                return True
            unreachable = None
        except ArtifactError as error:
            unreachable = error
        for path in candidates:
            if path.is_file() and sha256_file(path) == digest:
                write_bytes(target, path.read_bytes())
                return True
        if unreachable is not None:
            raise unreachable
        return False
