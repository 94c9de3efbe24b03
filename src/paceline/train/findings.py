"""One finding made of many outcomes: of several workloads, or of several cells of a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from paceline.records import Finding

MOST_SHOWN = 4  # outcomes in the evidence of a finding


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a check says of one thing; outcomes of more ``weight`` are shown first."""

    status: Literal["pass", "fail", "not applicable"]
    evidence: str
    weight: float = 0.0


def finding(check: str, outcomes: Sequence[Outcome], *, otherwise: str = "") -> Finding:
    """A check fails if it fails for anything, and passes if it passes for anything else.

    Args:
        otherwise: why the check is not applicable where there are no outcomes.
    """
    found = {outcome.status for outcome in outcomes}
    status = "fail" if "fail" in found else "pass" if "pass" in found else "not applicable"
    shown = sorted((one for one in outcomes if one.status == status), key=lambda one: -one.weight)
    sentences = [outcome.evidence for outcome in shown[:MOST_SHOWN]] or [otherwise]
    if len(shown) > MOST_SHOWN:
        sentences.append(f"and {len(shown) - MOST_SHOWN} more")
    if status == "pass" and (left_out := len(outcomes) - len(shown)):
        sentences.append(f"not applicable to {left_out} more")
    return Finding(check=check, status=status, evidence="; ".join(sentences))
