"""``paceline audit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paceline.analysis.audit import AuditFinding


def audit(run: Path, *, json: Annotated[bool, Parameter(negative=())] = False) -> int:
    """Check a run before believing it: each check with its evidence; exit code 1 where one fails.

    Parameters
    ----------
    run:
        The folder of a run, such as runs/demo; it may still be running.
    json:
        Print one JSON object.
    """
    from dataclasses import asdict

    from paceline.analysis.audit import Subject, spoiling
    from paceline.analysis.audit import audit as make_checks
    from paceline.analysis.load import load
    from paceline.cli.output import print_json, print_text
    from paceline.records import SCHEMA_VERSION

    loaded = load(run)
    findings = make_checks(Subject.of(loaded))
    withheld = spoiling(findings)
    if json:
        print_json(
            {
                "schema_version": SCHEMA_VERSION,
                "study": loaded.name,
                "withholds_verdict": list(withheld),
                "audit": [asdict(one) for one in findings],
            }
        )
    else:
        _print(findings)
        print_text(f"the verdict is withheld: {', '.join(withheld)}" if withheld else "nothing withholds the verdict")
    return 1 if any(one.status == "fail" for one in findings) else 0


def _print(findings: Sequence[AuditFinding]) -> None:
    """A check a line, its status first and its evidence below."""
    from rich.text import Text

    from paceline.cli.output import console

    page = console()
    styles = {"pass": "green", "fail": "bold red", "not applicable": "dim"}
    width = max(len(status) for status in styles)
    for one in findings:
        page.print(Text(f"{one.status:<{width}}  ", style=styles[one.status]) + Text(one.check))
        page.print(Text(f"{'':<{width}}  {one.evidence}", style="dim"), soft_wrap=True)
