"""``paceline attach``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from paceline.plan.control import Detached

NUM_LINES_BEFORE = 20


def attach(run: Path, *, json: Annotated[bool, Parameter(negative=())] = False) -> int:
    """Follow a detached run until its end, with the exit code that it ends with. Ctrl-C ends only the following.

    Where its controlling process was killed, another one is started in the background, which takes up what goes on.

    Parameters
    ----------
    run:
        The folder of a run, such as runs/demo.
    json:
        Print the comparison as one JSON object when the run has ended, as `paceline run --json` does.
    """
    from paceline.cli.output import say
    from paceline.cli.report import report

    try:
        ended = _follow(run)
    except KeyboardInterrupt:
        say(f"the run goes on; `paceline attach {run}` follows it again, `paceline stop {run}` ends it")
        return 130
    if ended.exit_code is None:
        say("the run was killed; `paceline attach` takes it up again")
        return 1
    if json and ended.exit_code in (0, 1) and ended.status == "ended":
        report(run, json=True, html=False)
    return ended.exit_code


def _follow(run: Path) -> Detached:
    """Pass on what a detached run says until it has ended.

    Raises: UsageError if no detached run was started there.
    """
    import time

    from paceline.cli.logs import POLL_S, GrowingText, refuse_stranger
    from paceline.cli.output import say, write
    from paceline.errors import UsageError
    from paceline.plan import control

    refuse_stranger(run)
    last, runner = control.last_detached(run), control.who_runs(run)
    if last is None or (runner is not None and not runner.detached):
        who = f"it is {runner.in_words()}" if runner else "nobody runs it"
        raise UsageError(f"{run} is no detached run: {who}. `paceline run STUDY --detach` starts one")
    if control.go_on(run):
        say("its controlling process was killed; another one takes the run up, in the background")
        last = control.last_detached(run)
    said = GrowingText(control.log_of(run))
    lines = said.new_text().splitlines(keepends=True)
    if len(lines) > NUM_LINES_BEFORE:
        say(f"... {len(lines) - NUM_LINES_BEFORE} lines before; `paceline logs {run}` shows them")
    write("".join(lines[-NUM_LINES_BEFORE:]), stderr=True)
    while last is not None and last.status == "running":
        time.sleep(POLL_S)
        last = control.last_detached(run)  # before the text, so that none is missed
        write(said.new_text(), stderr=True)
    if last is None:
        raise UsageError(f"{run} was removed while it was followed")
    return last
