"""Finding a stage's outputs in a project folder by their digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from olmoearth_core.errors import StoreError
from olmoearth_core.manifest import Manifest, read_manifest
from olmoearth_core.stages import PLACES


@dataclass(frozen=True)
class Output:
    """A folder of outputs and its manifest; the files are not verified."""

    folder: Path
    manifest: Manifest
    files: Mapping[str, Path] | None = None
    """Where each file lies, for outputs that a content store keeps under other names."""

    def path(self, name: str) -> Path:
        """Where the output `name` lies; it may be gone."""
        return self.folder / name if self.files is None else self.files.get(name, self.folder / name)


def find_output(root: Path, stage: str, digest: str) -> Output | None:
    """The outputs of `stage` in the project folder `root` whose digest is `digest`."""
    for folder in sorted(root.glob(PLACES[stage])):
        try:
            manifest = read_manifest(folder)
        except StoreError:  # damaged: not these outputs
            continue
        if manifest is not None and manifest.stage == stage and manifest.outputs_digest == digest:
            return Output(folder, manifest)
    return None
