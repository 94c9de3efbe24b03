"""Where a command's words go: data to standard output, everything else to standard error.

Whatever goes through here for people is inert: names, causes and logs come from files and hosts, and no terminal is to
obey them. JSON is so by itself.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from paceline.inert import inert

if TYPE_CHECKING:
    from rich.console import Console


def print_json(value: Any) -> None:  # noqa: ANN401
    """Print one JSON document on one line of standard output; NaN and infinities become strings."""
    sys.stdout.write(json.dumps(_finite(value), allow_nan=False) + "\n")


def print_text(text: str) -> None:
    """Print data for people on standard output."""
    write(text + "\n")


def say(text: str) -> None:
    """Print a remark on standard error."""
    write(text + "\n", stderr=True)


def write(text: str, *, stderr: bool = False) -> None:
    """Print text as it is, but inert, and at once."""
    stream = sys.stderr if stderr else sys.stdout
    stream.write(inert(text))
    stream.flush()


def console(*, stderr: bool = False) -> Console:
    """A rich console; it sees pipes, NO_COLOR and TERM=dumb by itself.

    What it prints is inert, and brackets in a string are no markup. What it shows live, such as bars, is not: give
    that the text made inert.
    """
    from rich.console import Console

    from paceline.cli.inert_console import MakesInert

    made = Console(stderr=stderr, highlight=False, soft_wrap=False, markup=False, emoji=False)
    made.push_render_hook(MakesInert())
    return made


def _finite(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, float) and value - value != 0:
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
