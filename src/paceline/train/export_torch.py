"""Writes a run's losses, accuracies and models as the files of the study that paceline replaces.

For each trial a folder with ``train_loss.pt``, ``valid_loss.pt``, ``train_accs.pt``, ``valid_accs.pt`` (lists of
floats, one for each epoch) and ``model.pt`` (the state dict of the newest checkpoint). Called as
``python -m paceline.train.export_torch RUN OUT``; prints the path of each file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from paceline.errors import PacelineError, UsageError
from paceline.inert import inert
from paceline.records import Evaluation, rank_file, read_records, trial_dirs
from paceline.train import checkpoint

FILES = {
    "train_loss.pt": ("train", "loss"),
    "valid_loss.pt": ("validation", "loss"),
    "train_accs.pt": ("train", "accuracy"),
    "valid_accs.pt": ("validation", "accuracy"),
}


def export_run(run_dir: Path, out: Path) -> list[Path]:
    """Write the files of every trial below ``out``.

    A metric that a workload does not have, and the model of a trial without a checkpoint, are left out with a remark
    on standard error.
    Raises: UsageError if the run has no trial; DataError if a record or every checkpoint of a trial is damaged.
    """
    folders = list(trial_dirs(run_dir))
    if not folders:
        raise UsageError(f"{run_dir} has no trial to export")
    return [path for folder in folders for path in export_trial(folder, out / folder.name)]


def export_trial(trial_dir: Path, out: Path) -> list[Path]:
    """Write the files of one trial into ``out``; returns their paths."""
    records = rank_file(trial_dir, 0)
    evaluations = [
        record
        for record in (read_records(records) if records.exists() else [])
        if isinstance(record, Evaluation) and record.epoch_end
    ]
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (split, metric) in FILES.items():
        scores = [getattr(evaluation, split) for evaluation in evaluations]
        if scores and not any(metric in score for score in scores):
            _remark(f"{trial_dir.name}: its {split} scores have no {metric}, so there is no {name}")
            continue
        written.append(_save([score.get(metric, float("nan")) for score in scores], out / name))
    state = checkpoint.load_newest(trial_dir)
    if state is None:
        _remark(f"{trial_dir.name}: it has no checkpoint, so there is no model.pt")
    else:
        written.append(_save(state["model"], out / "model.pt"))
    return written


def _save(value: Any, path: Path) -> Path:  # noqa: ANN401
    """Write aside, then rename."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:  # given a path, torch would write its name into the file, process id and all
            torch.save(value, file)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def _remark(text: str) -> None:
    sys.stderr.write(inert(text) + "\n")


def main(arguments: Sequence[str]) -> int:
    """Export RUN to OUT; returns the exit code."""
    if len(arguments) != 2:
        _remark("usage: python -m paceline.train.export_torch RUN OUT")
        return 2
    try:
        for path in export_run(Path(arguments[0]), Path(arguments[1])):
            sys.stdout.write(f"{path}\n")
    except PacelineError as error:
        _remark(f"paceline: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
