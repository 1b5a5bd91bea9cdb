"""Templates: those of the platform, and those of a partner in a folder of their own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from olmoearth_core.errors import ProjectError
from olmoearth_core.project import PROJECT_FILE

README = "README.md"
PLACEHOLDER = "PROJECT_NAME"
LARGEST = 2**20
"""Bytes of a template's file: it is settings and words, no data."""


@dataclass(frozen=True)
class Template:
    """What a new project begins with.

    Attributes:
        name: as `--template` has it.
        texts: file below the project folder -> its text, in which PROJECT_NAME stands for the name of the project;
            project.yaml is always there.
        origin: "olmoearth", or the folder of a partner's own.
    """

    name: str
    texts: Mapping[str, str]
    origin: str

    @property
    def about(self) -> str:
        """What it is for, in a few words: the title of its README."""
        for line in self.texts.get(README, "").splitlines():
            if line.startswith("# "):
                return re.sub(rf"^(a |an |the )?{PLACEHOLDER}\s*[:,-]?\s*", "", line[2:].strip()).strip()
        return ""


def template_names() -> list[str]:
    """The platform's own templates, in alphabetical order."""
    return sorted(entry.name for entry in files(__package__).iterdir() if entry.joinpath(PROJECT_FILE).is_file())


def templates(shelf: Path | None = None) -> list[Template]:
    """The platform's templates and those on a partner's shelf, by name; a partner's own replaces one of its name.

    Args:
        shelf: a folder of folders, one a template; may be missing.

    Raises:
        ProjectError: a template on the shelf that cannot be read.
    """
    found = {name: find_template(name) for name in template_names()}
    return [*(found | _on_shelf(shelf)).values()]


def find_template(name: str, shelf: Path | None = None) -> Template:
    """The template of a name, or in a folder that is named.

    Args:
        name: of a template, or the path of a folder that is one (with a slash in it).
        shelf: a folder of a partner's own templates.

    Raises:
        ProjectError: no such template, or one that cannot be read; the message names those there are.
    """
    if "/" in name or name in (".", ".."):
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise ProjectError(f"template '{name}': no such folder.")
        return read_template(folder, folder.resolve().name)
    if name in (own := _on_shelf(shelf)):
        return own[name]
    if name not in template_names():
        raise ProjectError(
            f"template '{name}': no such template; there are {', '.join(sorted({*template_names(), *own}))}. A folder "
            "of your own is named with a slash: ./mine."
        )
    return Template(name, _texts(files(__package__).joinpath(name), name), "olmoearth")


def read_template(folder: Path, name: str) -> Template:
    """A partner's own template.

    Raises:
        ProjectError: it has no project.yaml, or holds what is no text, too large, or a link.
    """
    if not (folder / PROJECT_FILE).is_file():
        raise ProjectError(f"{folder}: is no template; a template is a folder with a {PROJECT_FILE} in it.")
    return Template(name, _texts(folder, str(folder)), str(folder))


def _on_shelf(shelf: Path | None) -> dict[str, Template]:
    if shelf is None or not shelf.is_dir():
        return {}
    folders = sorted(folder for folder in shelf.iterdir() if (folder / PROJECT_FILE).is_file())
    return {folder.name: read_template(folder, folder.name) for folder in folders if folder.name[0] != "."}


def _texts(folder: Traversable, where: str, below: str = "") -> dict[str, str]:
    """The text files of a folder, project.yaml and README.md first; hidden ones (.git) stay out."""
    found: dict[str, str] = {}
    for entry in sorted(folder.iterdir(), key=lambda e: (e.name != PROJECT_FILE, e.name != README, e.name)):
        place = f"{below}{entry.name}"
        if entry.name.startswith((".", "__")):
            continue
        if isinstance(entry, Path) and entry.is_symlink():
            raise ProjectError(f"{where}: {place} is a link; a template holds its files itself.")
        if entry.is_dir():
            found |= _texts(entry, where, f"{place}/")
            continue
        content = entry.read_bytes()
        try:
            if len(content) > LARGEST:
                raise ValueError
            found[place] = content.decode("utf-8-sig")
        except ValueError:
            raise ProjectError(
                f"{where}: {place} is no text of at most {LARGEST >> 20} MiB; a template holds settings and words, no "
                "data."
            ) from None
    return found
