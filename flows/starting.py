"""Starting a project: a template from wherever it lies, a folder filled in, a git and DVC repository around it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from olmoearth_core.errors import ProjectError
from olmoearth_core.project import load_project
from olmoearth_core.store import publish_folder, write_text
from olmoearth_core.templates import Answers, Template, find_template, read_template, write_template
from olmoearth_core.templates.fill import Filled
from registry.errors import without_passwords
from registry.versioning import git
from registry.versioning.dvc import commit_beginning, ensure_pipeline
from registry.workspace import Workspace


@dataclass(frozen=True)
class Started:
    """A new project.

    Attributes:
        root: its folder.
        template: what it was made from.
        files: written, in the order a partner reads them.
        filled: what was filled in.
        kept: files that are committed in its repository; none where the repository is somebody's around it.
    """

    root: Path
    template: Template
    files: list[Path]
    filled: Filled
    kept: list[str]


def project_folder(named: Path) -> Path:
    """The folder that a new project's name means: below where the command runs, or at an absolute path.

    Raises:
        ProjectError: it climbs out of this folder, or no file system takes it.
    """
    if ".." in named.parts:
        raise ProjectError(
            f"{named}: climbs out of this folder. Name a folder below it, an absolute path, or go there first (cd)."
        )
    try:
        folder = named.expanduser().resolve()
        folder.exists()  # a name that is too long is found out by asking
    except (RuntimeError, OSError, ValueError) as error:
        raise ProjectError(f"{str(named)[:80]!r}: cannot be a folder ({str(error)[:80]}). Name another.") from error
    return folder


def start_project(named: Path, template: str, answers: Answers, workspace: Workspace) -> Started:
    """Make a project folder, its own git and DVC repository, whole or not at all.

    Args:
        named: the new folder; its last part is the project's name.
        template: as for `fetch_template`.
        answers: what is filled in.
        workspace: for the DVC remote and a partner's own templates.

    Raises:
        CoreError: a name, template, label file or place that cannot be used.
        RegistryError: git or DVC refuses.
    """
    root = project_folder(named)
    found = fetch_template(template, workspace)
    with _all_or_nothing(root):
        files, filled = write_template(found, root, project_name=root.name, answers=answers)
        project = load_project(root)
        ensure_pipeline(project, workspace)
        kept = commit_beginning(project)
    return Started(root, found, files, filled, kept)


def fetch_template(named: str, workspace: Workspace) -> Template:
    """A template by its name, folder (with a slash in it) or git URL, `URL#folder` where it is not the root of that.

    Raises:
        ProjectError: no such template, or one that cannot be read.
        VersioningError: git refuses.
    """
    if not is_git_url(named):
        return find_template(named, workspace.templates)
    url, _, below = named.partition("#")
    if ".." in Path(below).parts or Path(below).is_absolute():
        raise ProjectError(f"template '{without_passwords(named)}': #{below} climbs out of the repository.")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "template"
        git.clone(url, folder)
        if not (folder / below).resolve().is_relative_to(folder.resolve()):
            raise ProjectError(f"template '{without_passwords(named)}': #{below} climbs out of the repository.")
        name = Path(below).name or url.rstrip("/").rpartition("/")[2].removesuffix(".git")
        found = read_template(folder / below, name)
        return Template(found.name, found.texts, without_passwords(named))


def is_git_url(named: str) -> bool:
    """Whether a template is named by the URL of a git repository."""
    return "://" in named or named.startswith("git@") or named.partition("#")[0].endswith(".git")


def keep_template(named: str, workspace: Workspace, name: str | None = None) -> Template:
    """Put a template on the workspace's shelf, from which it is known by its name; replaces one of that name.

    Raises:
        ProjectError, VersioningError: as `fetch_template`; or a name that is none.
        StoreError: the shelf cannot be written.
    """
    found = fetch_template(named, workspace)
    chosen = name or found.name
    if not chosen or Path(chosen).name != chosen or chosen.startswith("."):
        raise ProjectError(f"'{chosen}' cannot be the name of a template; a name has no slash and no dot before it.")
    target = workspace.templates / chosen
    work = target.with_name(f".{chosen}.new")
    shutil.rmtree(work, ignore_errors=True)
    try:
        for place, text in found.texts.items():
            write_text(work / place, text)
        publish_folder(work, target, target.with_name(f".{chosen}.old"))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return read_template(target, chosen)


@contextmanager
def _all_or_nothing(root: Path) -> Iterator[None]:
    """Whatever goes wrong, the folder is then as it was: not there, or empty; its new parents go too."""
    was_empty = root.is_dir() and not any(root.iterdir())
    ours = was_empty or not root.exists()
    missing = [parent for parent in root.parents if not parent.exists()]
    try:
        yield
    except BaseException:
        if ours:
            shutil.rmtree(root, ignore_errors=True)
            if was_empty:
                root.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):
            for parent in missing:
                parent.rmdir()
        raise
