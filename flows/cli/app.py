"""The commands of `olmoearth`, put together, and the one place where a failure becomes a sentence and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

import typer

from flows.cli import (
    audit,
    dataset,
    demo,
    deploy,
    doctor,
    encoders,
    estimate,
    importing,
    models,
    probe,
    projects,
    stages,
)
from flows.cli.output import fail, quiet_libraries

WRONG_USAGE, STOPPED = 2, 130
"""Exit codes that Typer gives."""

app = typer.Typer(
    name="olmoearth",
    help="From labels and an area to a map, and to the proof of what made it.",
    epilog="Every command takes --debug: show the traceback and the libraries' logs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for module in (projects, importing, estimate, stages, probe, deploy, dataset, audit, models, encoders, doctor, demo):
    module.add_to(app)


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
        app(args=arguments, standalone_mode=True)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
        if code == STOPPED:
            return fail(KeyboardInterrupt("Stopped. Finished work is kept; the same command goes on."), as_json, code)
        if code == WRONG_USAGE and as_json:
            return fail(ValueError(f"Wrong usage of: olmoearth {' '.join(arguments)}. See --help."), as_json, code)
        return code
    except (CoreError, RegistryError, FlowError) as error:
        if debug:
            raise
        return fail(error, as_json, 1)
    except Exception as error:
        if debug:
            raise
        where = f"{error.__class__.__name__}: {error}"
        return fail(RuntimeError(f"{where}. This is a defect of the platform; --debug shows where."), as_json, 70)
    return 0
