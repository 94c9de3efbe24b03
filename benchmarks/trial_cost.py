"""What a trial of a study costs beyond its updates, evaluations and checkpoints: in a warm job, and by one torchrun."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.outcome import Row, hand_over, row
from benchmarks.programs import PACELINE, run, torchrun
from paceline.records import End, Epoch, Evaluation, Start, exit_of, rank_file, read_records

STUDY = """
name = "trial-cost"
seeds = [{seeds}]
max_epochs = 1
scales = [1, 2]
threads_per_rank = 1
batch = {{ rule = "global", global_batch_size = 512 }}
[workloads.logreg-mnist]
dataset = "mnist-small"
[optimizers.sgd]
"""


@dataclass(frozen=True, kw_only=True)
class Account:
    """Where the time of one trial went, in seconds; ``ended`` is when, since 1970."""

    num_ranks: int
    started: float
    ended: float
    startup_s: float
    work_s: float
    finish_s: float


def measure(quick: bool) -> list[Row]:
    """Fixed cost per trial, its parts, and a fresh job for comparison."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = folder / "study.toml"
        study.write_text(STUDY.format(seeds=", ".join(map(str, range(4 if quick else 30)))))
        # the exit code is that of the report that follows as well; the records below say whether the trials ran
        run([*PACELINE, "run", str(study), "--runs", str(folder / "runs")], check=False)
        rows = _warm_rows(folder / "runs" / "trial-cost")
        cold = [_cold(folder / f"cold-{number}", num_ranks=2) for number in range(1 if quick else 4)]
    return [*rows, row("one torchrun per trial: fixed cost (2 ranks)", cold, "s", digits=2)]


def _warm_rows(run_dir: Path) -> list[Row]:
    accounts = sorted(map(account, (path.parent for path in run_dir.glob("*/trial.json"))), key=lambda one: one.ended)
    fixed: dict[int, list[float]] = {1: [], 2: []}
    before: dict[int, list[float]] = {1: [], 2: []}
    for previous, one in pairwise(accounts):
        fixed[one.num_ranks].append(one.ended - previous.ended - one.work_s)
        before[one.num_ranks].append(one.started - previous.ended)
    rows = []
    for ranks in (1, 2):
        own = [one for one in accounts[1:] if one.num_ranks == ranks]
        where = f"({ranks} rank{'s' if ranks > 1 else ''})"
        startup = [one.startup_s for one in own]
        rows += [
            row(f"warm job: fixed cost per trial {where}", fixed[ranks], "s", at_most=0.1, digits=4),
            row(f"… of it from the last exit.json to the trial's begin {where}",
                (np.array(before[ranks]) - startup).tolist(), "s", digits=4),
            row(f"… model, optimizer, strategy, discarded pass {where}", startup, "s", digits=4),
            row(f"… end record to exit.json {where}", [one.finish_s for one in own], "s", digits=4),
            row(f"beside it: training, evaluation, checkpoint, test score {where}", [one.work_s for one in own], "s",
                digits=4),
        ]  # fmt: skip
    return rows


def account(trial_dir: Path) -> Account:
    """Read one trial's records. What follows the last epoch record is the last checkpoint and the test score."""
    records = read_records(rank_file(trial_dir, 0))
    (start,) = (record for record in records if isinstance(record, Start))
    (end,) = (record for record in records if isinstance(record, End))
    evaluation = [record for record in records if isinstance(record, Evaluation)][-1]
    epoch = [record for record in records if isinstance(record, Epoch)][-1]
    how = exit_of(trial_dir)
    assert how is not None and how.status == "completed", trial_dir
    last = end.time - epoch.time
    return Account(
        num_ranks=start.world_size,
        started=start.time,
        ended=how.time,
        startup_s=start.startup_s,
        work_s=end.train_time_s + evaluation.evaluation_time_s + evaluation.checkpoint_time_s + last,
        finish_s=how.time - end.time,
    )


def _cold(runs: Path, *, num_ranks: int) -> float:
    """Seconds of a whole torchrun beyond its updates, evaluation and checkpoint."""
    arguments = ["--workload", "logreg-mnist", "--optimizer", "sgd", "--epochs", 1, "--threads", 1]
    batch = ["--global-batch-size", 512, "--set", "workload.dataset=mnist-small"]
    began = time.perf_counter()
    run(torchrun(num_ranks, "paceline.train", *arguments, *batch, "--runs", runs))
    taken = time.perf_counter() - began
    (trial_dir,) = (path.parent for path in runs.glob("*/*/trial.json"))
    return taken - account(trial_dir).work_s


if __name__ == "__main__":
    hand_over(measure)
