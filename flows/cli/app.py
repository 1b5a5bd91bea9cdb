"""The commands of `olmoearth`, put together, and the one place where a failure becomes a sentence and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from flows.cli import (
    assess,
    audit,
    backup,
    change,
    compare,
    dataset,
    demo,
    deploy,
    doctor,
    embed,
    encoders,
    estimate,
    importing,
    keys,
    models,
    monitoring,
    probe,
    projects,
    reproduce,
    retrain,
    search,
    stages,
)
from flows.cli.output import fail, quiet_libraries

WRONG_USAGE, STOPPED = 2, 130
"""Exit codes that Typer gives."""

PANELS = {
    "Begin": (projects, importing, estimate, demo),
    "Run": (stages, dataset),
    "Map and publish": (assess, change, embed),
    "Models": (models, retrain, probe, search, compare, encoders),
    "Prove": (audit, reproduce, keys),
    "Operate": (monitoring, deploy, backup, doctor),
}
"""Panel of `olmoearth --help` -> whose commands it shows, in the order of a partner's work."""


class _ByPanel(TyperGroup):
    """Commands in the order of their panels, groups among them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands, panel after panel."""
        panels = list(PANELS)
        return sorted(self.commands, key=lambda name: panels.index(getattr(self.commands[name], "rich_help_panel", "")))


app = typer.Typer(
    name="olmoearth",
    cls=_ByPanel,
    help="From labels and an area to a map, and to the proof of what made it.",
    epilog="Every command takes --debug: show the traceback and the libraries' logs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _add(panel: str, part: typer.Typer) -> None:
    """Add the commands and groups of `part` to the app, in a panel of its help."""
    for command in part.registered_commands:
        command.rich_help_panel = panel
    for group in part.registered_groups:
        group.rich_help_panel = panel
    app.registered_commands += part.registered_commands
    app.registered_groups += part.registered_groups


for _panel, _modules in PANELS.items():
    for _module in _modules:
        _part = typer.Typer()
        _module.add_to(_part)
        _add(_panel, _part)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 a clear failure, 2 wrong usage, 70 a defect of ours, 130 stopped."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    quiet_libraries(debug)
    # torch's threads wait for each other by spinning: on a busy machine they steal the time they wait for
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(_run(arguments, debug, as_json="--json" in arguments))


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    """A polite kill (docker stop, systemd, SLURM) ends as Ctrl-C does: nothing is left running."""
    raise KeyboardInterrupt


def _run(arguments: list[str], debug: bool, as_json: bool) -> int:
    from flows.errors import FlowError
    from olmoearth_core.errors import CoreError
    from registry.errors import RegistryError

    try:
        return _ended(app(args=arguments, standalone_mode=not as_json), as_json)
    except SystemExit as stop:
        return _ended(stop.code, as_json)
    except (CoreError, RegistryError, FlowError) as error:
        if debug:
            raise
        return fail(error, as_json, 1)
    except MemoryError as error:
        if debug:
            raise
        told = "The memory of this machine does not last. Make training.batch_size smaller, or end other programs."
        return fail(MemoryError(f"{told} ({error})" if str(error) else told), as_json, 1)
    except Exception as error:
        if as_json and getattr(error, "exit_code", None) == WRONG_USAGE:
            return _wrong_usage(error, arguments)
        if debug:
            raise
        where = f"{error.__class__.__name__}: {error}"
        return fail(RuntimeError(f"{where}. This is a defect of the platform; --debug shows where."), as_json, 70)


def _ended(code: object, as_json: bool) -> int:
    """The exit code of a command that ended with `code`: what it returned, or left with."""
    if code == STOPPED:
        return fail(KeyboardInterrupt("Stopped. Finished work is kept; the same command goes on."), as_json, STOPPED)
    return code if isinstance(code, int) else 0


def _wrong_usage(error: Any, arguments: list[str]) -> int:
    """Say for machines what Typer says to people; its errors are of a Click of its own, and known by what they can."""
    error.show()
    reason = error.format_message().strip().rstrip(".")
    told = f"{reason}. Wrong usage of: olmoearth {' '.join(arguments)}; see --help."
    return fail(ValueError(told), True, WRONG_USAGE)
