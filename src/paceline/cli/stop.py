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
        Do not ask: kill it.
    """
    from paceline.cli.logs import refuse_stranger
    from paceline.cli.output import say
    from paceline.plan import control

    refuse_stranger(run)
    runner = control.stop(run, now=now)
    say("nobody ran it" if runner is None else f"stopped; it was {runner.in_words()}")
    return 0
