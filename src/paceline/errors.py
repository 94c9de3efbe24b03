"""The exception tree: what a user can cause, and the exit code each kind ends with.

Exit codes: 0 ok, 1 failed, 2 wrong use (arguments, study file, run folder), 130 interrupted.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PacelineError(Exception):
    """Something failed and can be said in one message; exit code 1."""

    exit_code = 1


class UsageError(PacelineError, ValueError):
    """What was asked for cannot be done as asked: arguments, study file, run folder; exit code 2."""

    exit_code = 2


class DataError(PacelineError, ValueError):
    """A data file is missing, damaged or not what it claims to be; exit code 1."""


class DivergedError(PacelineError):
    """A loss became NaN or infinite: the trial ends at once, as ``diverged``."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Say which allowed name was probably meant, and list them all.

    Returns: ``did you mean 'adam'? Allowed: adam, sgd`` or ``allowed: adam, sgd``.
    """
    names = sorted(allowed)
    close = difflib.get_close_matches(name[:100], names, n=1)  # longer ones would take minutes
    listed = ", ".join(names)
    return f"did you mean '{close[0]}'? Allowed: {listed}" if close else f"allowed: {listed}"
