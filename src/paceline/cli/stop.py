"""``paceline stop``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def stop(run: Path, *, now: Annotated[bool, Parameter(negative=())] = False) -> int:
    """Ask a run to end, and wait until none of its processes is left. `paceline run` goes on with it later.

    Parameters
    ----------
    run:
        The folder of a run, such as runs/demo; it may have been started in any shell of this host.
    now:
        Do not ask: kill its controlling process. Its ranks are ended all the same.
    """
    from paceline.cli.logs import refuse_stranger
    from paceline.cli.output import say
    from paceline.plan import control

    refuse_stranger(run)
    runner, went_on = control.stop(run, now=now)
    if runner is not None:
        say(f"stopped; it was {runner.in_words()}")
    else:
        say("stopped; its ranks had gone on without a controlling process" if went_on else "nobody ran it")
    return 0
