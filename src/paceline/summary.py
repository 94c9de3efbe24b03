"""The result of one trial in one object, read from its records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paceline.job import read_trial
from paceline.records import SCHEMA_VERSION, End, Evaluation, exit_of, rank_file, read_records


def as_text(summary: dict[str, Any]) -> str:
    """A summary for people, a line an entry."""
    return "\n".join(f"{key:26} {value}" for key, value in summary.items())


def summarize(trial_dir: Path) -> dict[str, Any]:
    """What ``paceline train --json`` prints. Scores are None where a trial has none; times are in seconds."""
    trial, how = read_trial(trial_dir), exit_of(trial_dir)
    path = rank_file(trial_dir, 0)
    records = read_records(path) if path.exists() else []
    evaluations = [record for record in records if isinstance(record, Evaluation)]
    end = next((record for record in reversed(records) if isinstance(record, End)), None)
    train_time_s = end.train_time_s if end else None
    return {
        "schema_version": SCHEMA_VERSION,
        "trial": trial.id,
        "status": how.status if how else "stopped",
        "cause": how.cause if how else "",
        "num_ranks": trial.num_ranks,
        "train_time_s": train_time_s,
        "examples_per_s": end.num_samples / train_time_s if end and train_time_s else None,
        "final_validation_accuracy": evaluations[-1].validation.get("accuracy") if evaluations else None,
        "final_test_accuracy": end.test.get("accuracy") if end else None,
        "parameters_digest": end.parameters_digest if end else None,
        "dataset": trial.dataset,
        "run_dir": str(trial_dir),
    }
