"""The processes of a run, by their part in it, and what the run is doing right now."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from paceline.launch.supervisor import identity, signal_process
from ranks import processes_naming

Part = Literal["rank", "agent", "keeper", "controller"]
Phase = Literal["start-up", "training", "checkpoint", "between trials", "report"]
PARTS: tuple[Part, ...] = ("rank", "agent", "keeper", "controller")
PHASES: tuple[Phase, ...] = ("start-up", "training", "checkpoint", "between trials", "report")
_SIGNS: tuple[tuple[str, Part], ...] = (  # in this order: a supervisor's words hold those of what it keeps
    ("paceline.launch.supervisor", "keeper"),
    ("paceline.train.worker", "rank"),
    ("paceline.train.agent", "agent"),
    ("paceline", "controller"),
)


@dataclass(frozen=True, kw_only=True)
class Victim:
    """A process of a run, by its ``identity``; ``number`` is a rank's, -1 of others; ``began`` in s since 1970."""

    part: Part
    identity: dict[str, Any]
    number: int
    began: float

    def strike(self, number: signal.Signals) -> bool:
        """Send it a signal; whether it was still there."""
        return signal_process(self.identity, number)


def victims(folder: Path) -> list[Victim]:
    """Those that live, of runs in a folder."""
    found = []
    for pid in processes_naming(str(folder)):
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            words = " ".join(process.cmdline())
            part = next((part for sign, part in _SIGNS if sign in words), None)
            if part is not None:
                number = int(process.environ().get("LOCAL_RANK", "-1")) if part == "rank" else -1
                found.append(Victim(part=part, identity=identity(pid), number=number, began=process.create_time()))
    return found


def running_trial(run_dir: Path) -> str | None:
    """The trial that runs, or ran last, of the job at hand."""
    try:
        return (run_dir / "running").read_text()
    except FileNotFoundError:
        return None


def writes_checkpoint(run_dir: Path) -> bool:
    """Whether a checkpoint is being written aside."""
    name = running_trial(run_dir)
    if name is None:
        return False
    try:
        with os.scandir(run_dir / name / "checkpoints") as entries:
            return any(entry.name.startswith(".update-") for entry in entries)
    except FileNotFoundError:
        return False


def num_over(run_dir: Path) -> int:
    """How many trials have ended."""
    return len(list(run_dir.glob("*/exit.json")))


def phase(run_dir: Path, alive: list[Victim], *, num_trials: int) -> Phase:
    """What a run is at."""
    if num_over(run_dir) == num_trials:
        return "report"
    name = running_trial(run_dir)
    ranks = [victim.began for victim in alive if victim.part == "rank"]
    if name is None or not ranks:
        return "start-up"
    if (run_dir / name / "exit.json").exists():
        return "between trials"
    with contextlib.suppress(FileNotFoundError):
        if max(ranks) > (run_dir / "running").stat().st_mtime:  # it names the trial of ranks that died
            return "start-up"
    return "checkpoint" if writes_checkpoint(run_dir) else "training"
