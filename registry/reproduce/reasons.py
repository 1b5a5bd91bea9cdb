"""What was not as it was when a map was made again: scenes, libraries, code, hardware. It may explain a difference."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from olmoearth_core.again.recipe import Made
from olmoearth_core.digest import sha256_json
from registry.context import PACKAGE
from registry.errors import ArtifactError
from registry.reproduce.behind import Behind
from registry.reproduce.code_archive import differing_files, source_sha256
from registry.reproduce.sources import Sources
from registry.tables import schema
from registry.workspace import Workspace

NUMERIC = ("torch", "numpy", "rasterio", "scipy", "pyproj", "shapely", "safetensors", "scikit-learn", "python")
"""Packages that make numbers come out otherwise; they are named first."""
NAMED = 8
"""So many packages, files or scenes are named; of more it says how many."""


def why(workspace: Workspace, behind: Behind, made: Made, *, recorded_code: bool) -> list[str]:
    """One sentence for each thing that is not as it was.

    Args:
        workspace: names the store that keeps what the runs were made by.
        behind: the map.
        made: how it went.
        recorded_code: whether the code of that time did the work.
    """
    sources, tiles = Sources(workspace, behind.runs), behind.run("infer")
    code = tiles.code_sha256 if recorded_code else source_sha256()
    told = [*made.notes, *_scenes(tiles, made), *_device(tiles, made)]
    stages = ("infer", *(("postprocess",) if made.products else ()), *(("finetune",) if made.retrained else ()))
    for stage in stages:
        run = behind.run(stage)
        for sentence in (*_hardware(run, made), *_packages(run, made, sources), *_code(run, code, sources)):
            if sentence not in told:  # of the tiles, mostly
                told.append(sentence if stage == "infer" else f"{stage}: {sentence}")
    return told


def _scenes(run: schema.Run, made: Made) -> Iterator[str]:
    known = {(one["scene"], one["asset"]) for one in run.summary.get("failed_assets", [])}
    lost = [one for one in made.lost if (one.scene, one.asset) not in known]
    for one in lost[:NAMED]:
        yield f"the asset {one.asset} of the scene {one.scene} cannot be read: {one.reason}"
    if len(lost) > NAMED:
        yield f"{len(lost) - NAMED} more assets cannot be read"
    again = known - {(one.scene, one.asset) for one in made.lost}
    if again and made.products:  # a sample may not have asked for them
        named = _some([f"{asset} of {scene}" for scene, asset in sorted(again)])
        yield f"assets that could not be read when the map was made can be read now: {named}"
    for name, reason in sorted(made.failed.items())[:NAMED]:
        yield f"the tile {name} could not be computed: {reason}"


def _device(run: schema.Run, made: Made) -> Iterator[str]:
    if run.device and run.device.partition(":")[0] != made.device:
        yield f"computed on {made.device}, recorded is {run.device}"
    if (threads := run.summary.get("threads")) is not None and threads != made.threads:
        yield f"computed with {made.threads} threads, recorded are {threads}"


def _hardware(run: schema.Run, made: Made) -> Iterator[str]:
    there = run.hardware or {}
    for part in ("processor", "gpus") if run.hardware else ():
        if there.get(part) != made.hardware.get(part):
            yield f"{part}: {_plain(made.hardware.get(part))} here, recorded is {_plain(there.get(part))}"


def _packages(run: schema.Run, made: Made, sources: Sources) -> Iterator[str]:
    if run.environment_sha256 is None:
        yield "by which libraries the map was made is not known: its outputs were found, made elsewhere or before"
        return
    if sha256_json(made.packages) == run.environment_sha256:
        return
    there = kept_packages(run, sources)
    if there is None:
        yield "other libraries than recorded are installed; which ones were is not kept"
        return
    here = _versions(made.packages)
    numeric = {name: place for place, name in enumerate(NUMERIC)}
    # of our own package the code is compared, by its content
    names = sorted((n for n in here.keys() | there.keys() if here.get(n) != there.get(n) and n != PACKAGE),
                   key=lambda name: (numeric.get(name, len(NUMERIC)), name))  # fmt: skip
    told = [f"{name} {here.get(name, 'is missing')} ({there.get(name, 'none')} recorded)" for name in names]
    if told:
        yield f"other library versions: {_some(told)}"


def kept_packages(run: schema.Run, sources: Sources) -> Mapping[str, str] | None:
    """Package -> version of the environment that the run was made in; None where nobody knows."""
    if run.environment_sha256 is None:
        return None
    with tempfile.TemporaryDirectory(prefix="olmoearth-packages-") as temporary:
        listed = Path(temporary) / "packages.json"
        try:
            if not sources.find(run.environment_sha256, listed):
                return None
        except ArtifactError:
            return None
        return _versions(json.loads(listed.read_bytes()))


def _versions(packages: Sequence[str]) -> dict[str, str]:
    return dict(line.split("==", 1) for line in packages)


def _code(run: schema.Run, code: str | None, sources: Sources) -> Iterator[str]:
    """Whether the code `code` that did it now is that of the run."""
    if run.code_sha256 is None:
        yield "by which code the map was made is not known or was not kept"
        return
    if run.code_sha256 == code:
        return
    commit = f" of commit {run.code_commit[:12]}{' with changes' if run.code_dirty else ''}" if run.code_commit else ""
    with tempfile.TemporaryDirectory(prefix="olmoearth-code-") as temporary:
        archive = Path(temporary) / "code.tar"
        try:
            names = differing_files(archive) if sources.find(run.code_sha256, archive) else []
        except ArtifactError:
            names = []
    yield f"other code than the recorded one{commit}{f': {_some(names)}' if names else ''}"


def _some(told: Sequence[str]) -> str:
    return ", ".join(told[:NAMED]) + (f" and {len(told) - NAMED} more" if len(told) > NAMED else "")


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
