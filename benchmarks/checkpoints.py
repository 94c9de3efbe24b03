"""What checkpoints cost beside training, at the default interval and after every epoch, over whole trials."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.data import prepare, write_source
from benchmarks.outcome import Row, hand_over, last_json, row
from benchmarks.programs import run, torchrun

MODELS = {"lenet5-mnist": "LeNet-5, mnist-small", "resnet20-imagenet32": "ResNet-20, 1,800 images"}
CASES = (  # workload, interval, epochs, trials; an epoch of ResNet-20 is long enough for a checkpoint after each
    ("lenet5-mnist", "auto", 20, 3),
    ("lenet5-mnist", "epoch", 20, 3),
    ("resnet20-imagenet32", "auto", 8, 1),
)


def measure(quick: bool) -> list[Row]:
    """Rows of each model, on one rank and on two."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data_dir = prepare(write_source(folder / "source", num_train=2000), folder / "data")
        for workload, every, num_epochs, repeats in CASES:
            told = (workload, 1 if quick else num_epochs, every, 1 if quick else repeats, data_dir)
            for num_ranks in (1, 2):
                output = run(torchrun(num_ranks, "benchmarks.checkpoints", "--rank", *told))
                rows += _rows(last_json(output), workload, num_ranks, every)
    return rows


def _rows(found: list[dict[str, float]], workload: str, num_ranks: int, every: str) -> list[Row]:
    when = {"auto": "by default", "epoch": "after every epoch"}[every]
    count = found[0]["count"]
    where = f"{MODELS[workload]}, {num_ranks} rank{'s' * (num_ranks > 1)}, {when}: {count:.0f} of them"
    shares = [100 * one["checkpoint_time_s"] / one["train_time_s"] for one in found]
    each = [1e3 * one["checkpoint_time_s"] / one["count"] for one in found]
    goal = 1.0 if every == "auto" else None
    return [
        row(f"time of checkpoints / of training ({where})", shares, "%", at_most=goal, digits=2),
        row(f"one checkpoint ({where})", each, "ms", digits=1),
        row(f"training ({where})", [one["train_time_s"] for one in found], "s", digits=1),
    ]


def rank_side(workload: str, num_epochs: int, every: str, repeats: int, data_dir: Path) -> None:
    """One rank; rank 0 prints the seconds that each trial spent on checkpoints and on training."""
    import torch
    import torch.distributed as dist

    from paceline.train.group import Groups, initialize

    torch.set_num_threads(1)
    device = torch.device("cpu")
    initialize(device, timeout_s=120)
    ranks = Groups([], device, ranks_per_host=int(os.environ["WORLD_SIZE"])).world
    found = [_trial(workload, num_epochs, every, data_dir, ranks) for _ in range(repeats)]
    if ranks.rank == 0:
        print(json.dumps(found), flush=True)
    dist.barrier()
    os._exit(0)


def _trial(workload: str, num_epochs: int, every: str, data_dir: Path, ranks: Any) -> dict[str, float]:
    """Train to the end; all checkpoints are kept, so that they can be counted."""
    import time

    from benchmarks.trials import open_trial
    from paceline.train.interval import Keeping
    from paceline.train.loop import Training

    settings = ("workload.dataset=mnist-small",) if workload == "lenet5-mnist" else ()
    trial, opened = open_trial(workload, "adam", num_ranks=ranks.world_size, data_dir=data_dir, settings=settings)
    trial = trial.model_copy(update={"max_epochs": num_epochs})
    with tempfile.TemporaryDirectory(dir=data_dir) as name:
        folder = Path(name)
        training = Training(trial, opened, ranks, folder, keeping=Keeping(every=every, kept=1_000_000))
        training.begin(time.perf_counter())
        training.run()
        training.close()
        return {
            "count": len(list(folder.glob("checkpoints/*.pt"))),
            "checkpoint_time_s": training.progress.checkpoint_time_s,
            "train_time_s": training.totals.train_time_s,
        }


if __name__ == "__main__":
    if "--rank" in sys.argv:
        name, epochs, every, repeats, folder = sys.argv[2:]
        rank_side(name, int(epochs), every, int(repeats), Path(folder))
    else:
        hand_over(measure)
