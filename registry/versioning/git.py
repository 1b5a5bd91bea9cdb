"""What git knows of a folder: its commit, whether it was changed since, whether it is a repository at all."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from registry.errors import VersioningError, without_passwords

SECONDS = 60


def git(folder: Path, *arguments: str) -> str:
    """Run git in `folder`; its output without the last newline.

    Raises:
        VersioningError: git is not installed, or refuses.
    """
    done = _run(folder, *arguments)
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise VersioningError(f"{folder}: git {arguments[0]} says: {said}")
    return done.stdout.removesuffix("\n")


def clone(url: str, folder: Path) -> None:
    """Clone the newest commit of a repository into the folder `folder`; asks nobody for a password.

    Raises:
        VersioningError: git is not installed, refuses, or the server does not answer in time.
    """
    shown = without_passwords(url)
    try:
        done = _run(folder.parent, "clone", "--quiet", "--depth", "1", "--", url, str(folder))
    except subprocess.TimeoutExpired:
        raise VersioningError(
            f"{shown}: no answer within {SECONDS} seconds. Clone it yourself and name the folder."
        ) from None
    if done.returncode:
        said = without_passwords(" ".join(done.stderr.split()))
        raise VersioningError(f"{shown}: cannot be cloned; git says: {said}")


def top(folder: Path) -> Path | None:
    """The root of the git repository that holds `folder`; None where none does, or where it ignores the folder."""
    found = _run(folder, "rev-parse", "--show-toplevel")
    if found.returncode:
        return None
    root = Path(found.stdout.strip())
    inside = root.resolve() != folder.resolve()
    if inside and _run(folder, "check-ignore", "--quiet", str(folder.resolve())).returncode == 0:
        return None
    return root


def commit_of(folder: Path) -> str | None:
    """The commit that is checked out in the repository around `folder`; None where there is none."""
    if top(folder) is None:
        return None
    found = _run(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    return found.stdout.strip() or None


def identity(folder: Path) -> list[str]:
    """Options that let git commit in `folder` where nobody said who they are."""
    if _run(folder, "config", "user.email").stdout.strip():
        return []
    return ["-c", "user.name=OlmoEarth platform", "-c", "user.email=olmoearth@localhost"]


def tracks(folder: Path, name: str) -> bool:
    """Whether the repository around `folder` has the file `name` of it."""
    return _run(folder, "ls-files", "--error-unmatch", "--", name).returncode == 0


def changed(folder: Path, *paths: str) -> list[str]:
    """The files below `paths` (of `folder`) that differ from the commit or are in none; ignored files do not count."""
    listed = git(folder, "-c", "core.quotePath=false", "status", "--porcelain", "--untracked-files=all", "--", *paths)
    return [line[3:].strip('"') for line in listed.splitlines()]


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    executable = shutil.which("git")
    if executable is None:
        raise VersioningError("git is not installed; projects are git repositories. Install git.")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        [executable, *arguments],
        cwd=folder,
        env={**environment, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
