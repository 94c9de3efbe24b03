"""What must be so of a study that was killed again and again: the numbers of one that never was, and nothing left."""

from __future__ import annotations

import json
import platform
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command_line import CommandLine
from paceline.records import Resumed, Start, exit_of, failures_of, rank_file, read_records, trial_dirs

# What a clock or the host's memory says: the only numbers that may differ.
_TIMES = re.compile(r"(_s|^time|^time_split|^node_hours.*|^peak_memory_bytes)$|^time_")
_NAMED = re.compile(r"rank (\d+)(?: \(idle\))? on " + re.escape(platform.node()))
_DIED, _ASKED = "died without a word (killed, or out of memory?)", ": was asked to end (SIGTERM)"


def untimed(value: Any) -> Any:
    """A JSON value without what a clock says."""
    if isinstance(value, dict):
        return {key: untimed(one) for key, one in value.items() if not _TIMES.search(key)}
    return [untimed(one) for one in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Results:
    """Of a study: what each rank recorded of each trial, and what the report says, all without times."""

    records: dict[str, list[Any]]
    report: dict[str, Any]

    def differences(self, other: Results) -> list[str]:
        """In words, where another run of the same study differs."""
        found = [f"{name} differs: {_first_difference(one, other.records.get(name))}"
                 for name, one in self.records.items() if other.records.get(name) != one]  # fmt: skip
        if self.report != other.report:
            found.append(f"the report differs: {_first_difference(self.report, other.report)}")
        return found


def results_of(run_dir: Path, command: CommandLine) -> Results:
    """Read a study that is over."""
    records = {}
    for folder in trial_dirs(run_dir):
        for path in (path for rank in range(2) if (path := rank_file(folder, rank)).exists()):
            kept = [record for record in read_records(path) if not isinstance(record, Start | Resumed)]
            records[f"{folder.name}/{path.name}"] = [untimed(record.model_dump(mode="json")) for record in kept]
    said = command("report", run_dir, "--json", "--no-html")
    assert said.returncode == 0, said.stderr
    report = json.loads(said.stdout)
    audit = [(one["check"], one["status"]) for one in report["audit"] if one["check"] != "machine quiet"]
    cells = json.loads(re.sub(r'"examples_per_s": [^,}]*', '"examples_per_s": 0', json.dumps(report["cells"])))
    kept = {key: report[key] for key in ("study", "claim", "batch_rule", "lr_rule", "num_planned")}
    return Results(records, kept | {"audit": audit, "cells": untimed(cells)})


def stray_files(run_dir: Path) -> list[str]:
    """What somebody wrote aside and never renamed."""
    hidden = (path for path in run_dir.rglob(".*") if path.name != ".lock")
    return [f"a stray file {path.relative_to(run_dir)}" for path in hidden]


class Untouched:
    """Sees whether files of completed trials are ever touched again."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._seen: dict[str, dict[str, tuple[int, int]]] = {}

    def look(self) -> list[str]:
        """What was touched since the last time."""
        flaws = []
        for folder in trial_dirs(self._run_dir):
            how = exit_of(folder)
            if how is not None and how.status == "completed":
                files = {
                    str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
                    for path in sorted(folder.rglob("*"))
                    if path.is_file() and not re.fullmatch(r"\..+\.\d+", path.name)
                }
                before = self._seen.setdefault(folder.name, files)
                flaws += [f"{folder.name}/{name} was touched" for name in before if files.get(name) != before[name]]
                flaws += [f"{folder.name}/{name} came after the end" for name in files if name not in before]
                self._seen[folder.name] = files
            elif folder.name in self._seen:
                flaws.append(f"{folder.name} was completed, and is no more")
        return flaws


def untrue_causes(run_dir: Path, struck: Sequence[tuple[int, int]]) -> list[str]:
    """Recorded causes that blame what did not happen.

    Args:
        struck: rank and signal of each rank that was killed.
    """
    flaws = []
    for folder in trial_dirs(run_dir):
        how = exit_of(folder)
        causes = [failure.cause for failure in failures_of(folder)] + ([how.cause] if how and how.cause else [])
        for cause in causes:
            first = cause.splitlines()[0]
            blamed = {int(number) for number in _NAMED.findall(first)}
            wanted = signal.SIGKILL if _DIED in first else signal.SIGTERM if _ASKED in first else None
            if not blamed or not {(number, wanted) for number in blamed} <= set(struck):
                flaws.append(f"{folder.name}: nothing of the kind happened: {cause}")
    return flaws


def _first_difference(one: Any, other: Any, where: str = "") -> str:
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        pairs: list[tuple[Any, Any, Any]] = [(key, one[key], other[key]) for key in one]
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = [(number, *pair) for number, pair in enumerate(zip(one, other, strict=True))]
    else:
        return f"{where}: {str(one)[:300]} is {str(other)[:300]}"
    return next(_first_difference(a, b, f"{where}/{key}") for key, a, b in pairs if a != b)
