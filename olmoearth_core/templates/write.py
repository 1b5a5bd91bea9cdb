"""Making a project folder from a template, whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from olmoearth_core.errors import ProjectError
from olmoearth_core.importing.labelling import write_labels
from olmoearth_core.importing.write import write_outlines
from olmoearth_core.project import PROJECT_FILE, parse_project
from olmoearth_core.settings_edit import quoted
from olmoearth_core.store import disk_errors, write_text
from olmoearth_core.templates.fill import AREA, Answers, Filled, fill
from olmoearth_core.templates.template import PLACEHOLDER, README, Template

BEGUN = (
    "This project was begun from a label file of yours: the labels, classes, area and date that the list above asks "
    "for are filled in. What it says of good labels holds for those you add."
)
"""What its README.md says of a project whose labels were given."""


def write_template(
    template: Template, folder: Path, *, project_name: str, answers: Answers | None = None
) -> tuple[list[Path], Filled]:
    """Make the project folder `folder` from a template, whole or not at all.

    Args:
        template: as `find_template` gives it.
        folder: the new folder; may exist if it is empty.
        project_name: goes into project.yaml.
        answers: what is filled in.

    Returns:
        The files written, in the order a partner reads them, and what was filled in.

    Raises:
        ProjectError: a template or a name that project.yaml does not allow, a folder that is not empty.
        SourceError, LabelError: labels that cannot be used.
        StoreError: the disk is full, or the place cannot be written.
    """
    texts = {file: text.replace(PLACEHOLDER, project_name) for file, text in template.texts.items()}
    # in quotes 2024 is a name too
    settings = template.texts[PROJECT_FILE].replace(PLACEHOLDER, quoted(project_name))
    named = parse_project(settings, f"{folder}: the template '{template.name}'").name  # refuses a name that is none
    if named != project_name:
        raise ProjectError(
            f"the template '{template.name}' ({template.origin}): its {PROJECT_FILE} says name: {named}; write name: "
            f"{PLACEHOLDER}."
        )
    _refuse_used(folder)
    filled = fill(settings, answers or Answers(), folder)
    texts[PROJECT_FILE] = filled.text
    if filled.labels is not None and README in texts:
        texts[README] = f"{texts[README].rstrip()}\n\n{BEGUN}\n"
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    work = folder.with_name(f".{folder.name}.{os.getpid()}.init")
    try:
        for file, text in texts.items():
            write_text(work / file, text)
        with disk_errors(folder):
            _write_data(work, filled)
            work.replace(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    written = [*(folder / file for file in texts), *sorted((folder / "labels").iterdir())]
    return list(dict.fromkeys(written)), filled


def _write_data(work: Path, filled: Filled) -> None:
    """The partner's labels and area, copied beside project.yaml."""
    (work / "labels").mkdir(exist_ok=True)
    if filled.labels is not None:
        write_labels(work, filled.labels, [])
    if filled.area is not None:
        write_outlines(work / AREA, [({"name": "labels"}, filled.area)])
    if not any((work / "labels").iterdir()):
        write_text(work / "labels" / ".gitkeep", "")


def _refuse_used(folder: Path) -> None:
    if folder.is_dir():
        found = sorted(path.name for path in folder.iterdir())
        if found:
            shown = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
            raise ProjectError(f"{folder}: is not empty (holds {shown}). Name a new folder, or empty this one.")
    elif folder.exists() or folder.is_symlink():
        raise ProjectError(f"{folder}: is a file, not a folder. Name a new folder.")
