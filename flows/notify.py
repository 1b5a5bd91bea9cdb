"""Telling people: a web hook, an e-mail, Slack, by the addresses in project.yaml, through Apprise or Prefect's blocks.

What cannot be delivered is a note in the log, never the failure of what it tells about; `olmoearth status` shows it
until news reaches everybody again.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import re
import warnings
from contextlib import suppress

from olmoearth_core.errors import StoreError
from olmoearth_core.progress import Progress
from olmoearth_core.project import Project
from olmoearth_core.store import write_json

BLOCK = "prefect://"
UNDELIVERED = "undelivered.json"
"""In the project's state: sentences about the last news, for each address that it did not reach."""


def notify(project: Project, about: str, title: str, body: str, progress: Progress) -> int:
    """Tell everybody in `notifications` of project.yaml who wants to hear of it; returns how many were told.

    Args:
        project: whose news it is.
        about: promotion, refusal, drift or failure.
        title: a line.
        body: Markdown.
        progress: is told what could not be delivered.
    """
    config = project.config.notifications
    if config is None or not wanted(project, about):
        return 0
    failed = []
    for address in config.to:
        if (problem := _deliver(address, title, body)) is not None:
            failed.append(f"Not delivered to {address.partition('://')[0]}: {problem}")
            progress.note(failed[-1])
    when = f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC"
    _keep(project, [f"{sentence} ({about}, {when})" for sentence in failed])
    return len(config.to) - len(failed)


def undelivered(project: Project) -> list[str]:
    """What kept the last news from somebody, a sentence an address; nothing where it reached everybody."""
    try:
        kept: list[str] = json.loads((project.state / UNDELIVERED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return kept


def _keep(project: Project, sentences: list[str]) -> None:
    """For `olmoearth status`; a full disk must not fail the work that is told about."""
    if sentences or undelivered(project):
        with suppress(StoreError):
            write_json(project.state / UNDELIVERED, sentences)


def wanted(project: Project, about: str) -> bool:
    """Whether anybody wants to hear `about` it."""
    config = project.config.notifications
    return config is not None and about in config.about


def _deliver(address: str, title: str, body: str) -> str | None:
    """Send it; what stood in the way, without the address, which may hold a password."""
    if address.startswith("$"):
        found = os.environ.get(address[1:].strip("{}"))
        if not found:
            return f"the environment variable {address} is not set (notifications.to)"
        address = found
    try:
        if not address.startswith(BLOCK):
            return _by_apprise(address, title, body)
        _by_block(address, title, body)
        return None
    except Exception as error:  # whatever a service or its client raises must not fail the work it tells about
        said = re.sub(r"\S*://\S+", "...", " ".join(str(error).split()))  # which clients like to repeat
        return f"{error.__class__.__name__}: {said[:200]}"


def _by_apprise(address: str, title: str, body: str) -> str | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its plug-ins, which it loads as it needs them
        return _sent(address, title, body)


def _sent(address: str, title: str, body: str) -> str | None:
    import apprise

    logging.getLogger("apprise").setLevel(logging.CRITICAL)
    sender = apprise.Apprise()
    if not sender.add(address):
        return "it is no address that Apprise knows (https://github.com/caronc/apprise/wiki)"
    if not sender.notify(body=body, title=title, body_format=apprise.NotifyFormat.MARKDOWN):
        return "the service did not take it"
    return None


def _by_block(address: str, title: str, body: str) -> None:
    """prefect://slack-webhook/ops: a notification block that somebody made on the server's pages."""
    from prefect.blocks.core import Block
    from prefect.utilities.asyncutils import run_coro_as_sync

    async def send() -> None:
        block = await Block.aload(address.removeprefix(BLOCK))
        await block.notify(body, subject=title)  # type: ignore[attr-defined]

    run_coro_as_sync(send())
