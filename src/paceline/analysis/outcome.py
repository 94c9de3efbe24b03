"""What a check finds: pass, fail or not applicable, each with its evidence in a sentence."""

from __future__ import annotations

from typing import Literal, NamedTuple

Status = Literal["pass", "fail", "not applicable"]


class Outcome(NamedTuple):
    """The status of a check and the sentence that says why."""

    status: Status
    evidence: str


def passed(evidence: str) -> Outcome:
    """Nothing is wrong."""
    return Outcome("pass", evidence)


def failed(evidence: str) -> Outcome:
    """Something is wrong."""
    return Outcome("fail", evidence)


def skipped(evidence: str) -> Outcome:
    """There is nothing to look at."""
    return Outcome("not applicable", evidence)
