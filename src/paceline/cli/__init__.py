"""The command line: one command a file; this module joins them and turns errors into exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cyclopts import App

from paceline import __version__
from paceline.cli.output import say
from paceline.errors import PacelineError

_COMMANDS = {
    "run": ("paceline.cli.run:run", "Run a study, or go on with it where it stopped."),
    "check": ("paceline.cli.check:check", "Check a study before it is run: labels, sharding, parity, budgets."),
    "doctor": ("paceline.cli.doctor:doctor", "Examine the hosts of a cluster file before a run."),
    "tune": ("paceline.cli.tune:tune", "Choose hyperparameters with equal budgets, before a study is run."),
    "train": ("paceline.cli.train:train", "Run a single trial."),
    "status": ("paceline.cli.status:status", "Say how far a run has come."),
    "logs": ("paceline.cli.logs:logs", "Show what a run, its ranks or a trial said."),
    "attach": ("paceline.cli.attach:attach", "Follow a detached run until its end."),
    "stop": ("paceline.cli.stop:stop", "Ask a run to end, from anywhere on its host."),
    "audit": ("paceline.cli.audit:audit", "Check a run before believing it."),
    "report": ("paceline.cli.report:report", "Compare what a run measured; write the HTML report."),
    "export": ("paceline.cli.export:export", "Write a run's results in another format."),
    "list": ("paceline.cli.listing:list_names", "List workloads, optimizers or strategies."),
    "show": ("paceline.cli.show:show", "Show the card of an optimizer, strategy or workload."),
    "data": ("paceline.cli.data:app", "Prepare and look at data sets."),
    "init": ("paceline.cli.init:init", "Write a commented study file to start from."),
    "schema": ("paceline.cli.schema:schema", "Print the JSON Schema of study files, for editors."),
    "clean": ("paceline.cli.clean:clean", "Remove a run after asking."),
}


def make_app() -> App:
    """The application with all its commands; each is imported when it is called."""
    app = App(
        name="paceline",
        help="Compare optimizers and ways to distribute training, under one clock and the same data.",
        version=__version__,
        result_action="return_value",
    )
    for name, (path, summary) in _COMMANDS.items():
        app.command(path, name=name, help=summary)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 ok, 1 failed, 2 wrong use, 130 interrupted."""
    try:
        result = make_app()(arguments)
    except PacelineError as error:
        say(f"paceline: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # who read the output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return result if isinstance(result, int) else 0
