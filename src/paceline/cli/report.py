"""``paceline report``."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from paceline.analysis.compare import Comparison


def report(
    run: Path,
    *,
    json: Annotated[bool, Parameter(negative=())] = False,
    out: Path | None = None,
    html: bool = True,
    anonymous: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Compare what a run measured: a table here, and an HTML page with figures.

    Parameters
    ----------
    run:
        The folder of a run, such as runs/demo; it may still be running.
    json:
        Print one JSON object instead of the table.
    out:
        Where to write the page; RUN/report.html if left out, with --anonymous RUN/report-anonymous.html.
    html:
        Write the page.
    anonymous:
        Number the hosts, and leave out users, paths, addresses and process ids; what the author of the study wrote
        stays: its name, its question, its labels.
    """
    from paceline.analysis.compare import compare
    from paceline.analysis.load import load
    from paceline.cli.output import print_json, say
    from paceline.errors import PacelineError, UsageError

    if out is not None and not html:
        raise UsageError("--out says where the page goes and --no-html says to write none; give one of them")
    loaded = load(run)
    if anonymous:
        from paceline.report.anonymous import anonymous as without_names

        loaded = without_names(loaded)
    comparison = compare(loaded)
    if json:
        print_json(as_json(comparison))
    else:
        _print_tables(comparison)
    if html:
        from paceline.report.render import write

        path = out if out is not None else run / ("report-anonymous.html" if anonymous else "report.html")
        if path.is_dir():
            raise UsageError(f"{path} is a folder; give the name of a file, such as {path / 'report.html'}")
        try:
            say(f"report: {write(loaded, comparison, path)}")
        except OSError as error:
            raise PacelineError(
                f"the report {path} cannot be written: {error.strerror}; make room, or name another file by --out"
            ) from error


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as one JSON object: numbers in SI units and shares, null where a median is not reached."""
    from dataclasses import asdict

    from paceline.records import SCHEMA_VERSION
    from paceline.report import answers

    seeds = comparison.seeds
    return {
        "schema_version": SCHEMA_VERSION,
        "study": comparison.study,
        "question": comparison.question,
        "verdict": [asdict(one) for one in comparison.verdicts],
        "answers": [asdict(one) for one in answers.answers(comparison)],
        "claim": {"enough_seeds": seeds.enough, **asdict(seeds), "in_words": answers.sureness(comparison)},
        "audit": [asdict(one) for one in comparison.audit],
        "comparisons": [asdict(one) for one in comparison.contrasts],
        "noise": [asdict(one) for one in comparison.noise],
        "speedups": [asdict(one) for one in comparison.speedups],
        "groups": asdict(comparison.groups) if comparison.groups else None,
        "notes": list(comparison.notes),
        "batch_rule": comparison.batch_rule,
        "lr_rule": comparison.lr_rule,
        "num_planned": comparison.num_planned,
        "cells": [asdict(cell) for cell in comparison.cells],
    }


def _print_tables(comparison: Comparison) -> None:
    from rich.text import Text

    from paceline.cli.output import console
    from paceline.report import answers, tables, words

    page = console()

    def say(text: str, *, first: str = "", style: str = "") -> None:
        filled = textwrap.fill(words.tied(text), page.width, initial_indent=first, subsequent_indent=" " * len(first))
        page.print(Text(filled, style=style), soft_wrap=True)

    for answer in answers.answers(comparison):
        say(answer.verdict, style="bold")
        page.print()
        page.print(tables.terminal_table(comparison, answer.workload, width=page.width))
        page.print()
        for sentence in filter(None, (answer.measured, answer.distributing)):
            say(sentence)
        for sentence in answer.sentences:
            say(sentence, first="- ")
        page.print()
    groups = [words.groups(comparison.groups)] if comparison.groups else []
    for sentence in (answers.sureness(comparison), words.rules(comparison), *groups, *comparison.notes):
        say(sentence)
    for finding in comparison.audit:
        if finding.status == "fail":
            say(f"{finding.check}: {finding.evidence}", first="audit: ")
