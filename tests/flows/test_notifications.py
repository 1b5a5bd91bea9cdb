"""Notifications by mail and in Slack's form; an address that is dead fails nothing, and `status` shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import toy
from mailserver import mail_server
from typer.testing import CliRunner
from webhook import web_hook

from flows.cli.app import app
from flows.notify import notify
from olmoearth_core.progress import Silent
from olmoearth_core.project import Project, load_project

NEWS = ("promotion", "told: promoted", "Version 2 is the champion; ä.")


class Notes(Silent):
    """A listener that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, message: str) -> None:
        self.told.append(message)


def telling(folder: Path, *addresses: str) -> Project:
    toy.write_project(folder, {"name": "told", "notifications": {"to": list(addresses)}})
    return load_project(folder)


def letter(port: int) -> str:
    return f"mailto://127.0.0.1:{port}?smtp=127.0.0.1&from=house@example.org&to=partner@example.org"


def test_mail_is_sent_by_smtp(tmp_path: Path) -> None:
    notes = Notes()
    with mail_server() as (port, came):
        assert notify(telling(tmp_path / "told", letter(port)), *NEWS, notes) == 1, notes.told
    (mail,) = came
    assert (mail["Subject"], mail["To"]) == ("told: promoted", "partner@example.org")
    assert "house@example.org" in mail["From"]
    body = mail.get_body()
    assert body is not None
    assert "Version 2 is the champion; ä." in body.get_content()


def test_slack_is_told_in_its_own_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apprise knows Slack's address by heart: only that is another here, what is sent and how is its own."""
    from apprise.plugins.slack import NotifySlack

    notes = Notes()
    with web_hook() as (hook, news):
        monkeypatch.setattr(NotifySlack, "webhook_url", hook.replace("json://", "http://"))
        monkeypatch.setenv("OPS_SLACK", "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ")
        told = notify(telling(tmp_path / "told", "$OPS_SLACK"), *NEWS, notes)
    assert told == 1, notes.told
    (message,) = news[0]["attachments"]
    assert message["title"] == "told: promoted"
    assert message["text"] == NEWS[2]


def test_what_is_dead_is_a_line_and_shown_by_status(tmp_path: Path, home: Path) -> None:
    notes = Notes()
    with mail_server(refuse=True) as (port, _came), web_hook() as (hook, news):
        project = telling(tmp_path / "told", letter(port).replace("//", "//me:geheim@"), letter(9), hook)
        assert notify(project, *NEWS, notes) == 1
        assert len(news) == 1, "one that is dead keeps nobody else from hearing"
    assert [line.partition(":")[0] for line in notes.told] == ["Not delivered to mailto"] * 2
    shown = _failures(project)
    assert [line.partition(" (promotion, 20")[0] for line in shown] == notes.told
    assert "geheim" not in "".join(shown)
    with mail_server() as (port, _came):
        assert notify(telling(tmp_path / "told", letter(port)), *NEWS, notes) == 1, notes.told
    assert _failures(project) == []


def _failures(project: Project) -> list[str]:
    told = CliRunner().invoke(app, ["status", str(project.root), "--json"])
    assert told.exit_code == 0, told.output
    failures: list[str] = json.loads(told.stdout)[0]["failures"]
    return failures
