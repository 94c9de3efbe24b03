"""Where a command's words go: data to standard output, everything else to standard error."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def print_json(value: Any) -> None:  # noqa: ANN401
    """Print one JSON document on one line of standard output; NaN and infinities become strings."""
    sys.stdout.write(json.dumps(_finite(value), allow_nan=False) + "\n")


def print_text(text: str) -> None:
    """Print data for people on standard output."""
    sys.stdout.write(text + "\n")


def say(text: str) -> None:
    """Print a remark on standard error."""
    sys.stderr.write(text + "\n")


def console(*, stderr: bool = False) -> Console:
    """A rich console; it sees pipes, NO_COLOR and TERM=dumb by itself."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=False)


def _finite(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, float) and value - value != 0:
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
