"""The manifest: a small JSON file beside a stage's outputs that names inputs and outputs by sha256."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from olmoearth_core.digest import sha256_file, sha256_json
from olmoearth_core.errors import StoreError
from olmoearth_core.store import PARTIAL, write_json

MANIFEST = "manifest.json"
SCRATCH = ".scratch"


class OutputFile(BaseModel):
    """One file that a stage left."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str
    bytes: int


class Manifest(BaseModel):
    """What a stage made of what. Holds no times, hosts or absolute paths, so equal work gives equal manifests."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    stage: str
    stage_version: int
    key: str
    """The stage key: sha256 of stage, version, settings and inputs."""
    settings: dict[str, Any]
    """The part of project.yaml that the stage depends on, with defaults filled in."""
    inputs: dict[str, str]
    """Name of each input file or upstream stage -> digest of its content."""
    outputs: dict[str, OutputFile]
    """Path below the stage's folder (posix) -> checksum."""
    summary: dict[str, Any]
    """What a person wants to know: counts, scores, skipped assets with reasons."""

    @property
    def outputs_digest(self) -> str:
        """sha256 of the outputs' names and checksums: the name of this content for the stages after."""
        return sha256_json({name: output.sha256 for name, output in self.outputs.items()})


def stage_key(stage: str, version: int, settings: dict[str, Any], inputs: dict[str, str]) -> str:
    """The one skip rule's key: equal key, equal work."""
    return sha256_json({"stage": stage, "version": version, "settings": settings, "inputs": inputs})


def output_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every output below `folder` in name order, without the manifest, scratch and partial files or folders."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if (
            path.is_file()
            and parts != (MANIFEST,)
            and parts[0] != SCRATCH
            and not any(part.endswith(PARTIAL) for part in parts)
        ):
            yield "/".join(parts), path


def describe_outputs(folder: Path) -> dict[str, OutputFile]:
    """Checksum every output below `folder`."""
    return {
        name: OutputFile(sha256=sha256_file(path), bytes=path.stat().st_size) for name, path in output_files(folder)
    }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest` into `folder`, whole or not at all."""
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of `folder`; None where there is none.

    Raises:
        StoreError: the file is there but is not a manifest.
    """
    path = folder / MANIFEST
    try:
        return Manifest.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValidationError, ValueError, IsADirectoryError) as error:
        raise StoreError(
            f"{path}: not a manifest of this platform ({error.__class__.__name__}). "
            "Remove the folder and run the stage again."
        ) from error


def damage(folder: Path, manifest: Manifest) -> list[str]:
    """What differs between `folder` and its manifest, one sentence a file; empty when all verify.

    Reads every byte. Files that the manifest does not know (a GIS leaves some beside a map) are nobody's damage.
    """
    return [f"{name}: {what}" for name, what in damaged_files(folder, manifest).items()]


def damaged_files(folder: Path, manifest: Manifest) -> dict[str, str]:
    """As `damage`: name of each output that differs -> what is wrong with it."""
    findings = {}
    for name, expected in manifest.outputs.items():
        path = folder / name
        if not path.is_file():
            findings[name] = "missing"
        elif path.stat().st_size != expected.bytes or sha256_file(path) != expected.sha256:
            findings[name] = "content differs from its checksum in the manifest"
    return findings
