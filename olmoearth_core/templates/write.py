"""Making a project folder from a template."""

from __future__ import annotations

import json
import os
import shutil
from importlib.resources import files
from pathlib import Path

from olmoearth_core.errors import ProjectError
from olmoearth_core.project import PROJECT_FILE, parse_project
from olmoearth_core.store import disk_errors, write_text

_PLACEHOLDER = "PROJECT_NAME"


def template_names() -> list[str]:
    """The templates there are, in alphabetical order."""
    return sorted(entry.name for entry in files(__package__).iterdir() if entry.joinpath(PROJECT_FILE).is_file())


def write_template(name: str, folder: Path, *, project_name: str) -> list[Path]:
    """Make the project folder `folder` from the template `name`, whole or not at all.

    Args:
        name: one of `template_names()`.
        folder: the new folder; may exist if it is empty.
        project_name: goes into project.yaml.

    Returns:
        The files written, in the order a partner reads them.

    Raises:
        ProjectError: an unknown template, a name that project.yaml does not allow, a folder that is not empty.
        StoreError: the disk is full, or the place cannot be written.
    """
    if name not in template_names():
        raise ProjectError(f"template '{name}': no such template; there are {', '.join(template_names())}.")
    written_as = {PROJECT_FILE: json.dumps(project_name), "README.md": project_name}  # in quotes 2024 is a name too
    texts = {file: _text(name, file).replace(_PLACEHOLDER, word) for file, word in written_as.items()}
    parse_project(texts[PROJECT_FILE], f"{folder}: the template '{name}'")  # refuses a name that is none
    _refuse_used(folder)
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    work = folder.with_name(f".{folder.name}.{os.getpid()}.init")
    try:
        for file, text in texts.items():
            write_text(work / file, text)
        write_text(work / "labels" / ".gitkeep", "")
        with disk_errors(folder):
            work.replace(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return [folder / file for file in (*texts, "labels/.gitkeep")]


def _text(template: str, file: str) -> str:
    return files(__package__).joinpath(template, file).read_text(encoding="utf-8")


def _refuse_used(folder: Path) -> None:
    if folder.is_dir():
        found = sorted(path.name for path in folder.iterdir())
        if found:
            shown = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
            raise ProjectError(f"{folder}: is not empty (holds {shown}). Name a new folder, or empty this one.")
    elif folder.exists() or folder.is_symlink():
        raise ProjectError(f"{folder}: is a file, not a folder. Name a new folder.")
