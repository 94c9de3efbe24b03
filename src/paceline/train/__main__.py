"""``torchrun --nproc-per-node N -m paceline.train ...``: one trial under the user's own torchrun."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from cyclopts import App

from paceline.arguments import TrainArguments, free_name
from paceline.errors import PacelineError, UsageError
from paceline.job import read_trial
from paceline.records import write_versioned
from paceline.study import Study
from paceline.summary import as_text, summarize
from paceline.train.group import Groups, choose_device, initialize
from paceline.train.interval import Keeping
from paceline.train.worker import open_workload, run_and_record
from paceline.trial import WorkloadFacts, as_json, expand
from paceline.workloads.base import Workload

TIMEOUT_S = 600.0


def train(arguments: TrainArguments) -> int:
    """Run a single trial on the ranks that torchrun started; rank 0 prints the result."""
    if "LOCAL_WORLD_SIZE" not in os.environ:
        raise UsageError("start this by torchrun, or use `paceline train`")
    world_size, local = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    study = arguments.study(num_ranks=world_size, num_hosts=world_size // local)
    threads = study.threads_per_rank
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // local) if threads == "auto" else threads)
    device = choose_device(study.device)
    store = initialize(device, timeout_s=TIMEOUT_S)
    workload = open_workload(next(iter(study.workloads.values())), arguments.data_dir)
    if dist.get_rank() == 0:
        store.set("trial", str(_lay_out(free_name(study, arguments.runs), arguments.runs, workload)))
    trial_dir = Path(store.get("trial").decode())
    trial, groups = read_trial(trial_dir), Groups([], device, ranks_per_host=local)
    keeping = Keeping(every=study.checkpoint_every, kept=study.checkpoints_kept, store=store)
    status = run_and_record(trial, arguments.data_dir, groups.world, trial_dir, keeping=keeping)
    if dist.get_rank() == 0:
        summary = summarize(trial_dir)
        sys.stdout.write((json.dumps(summary) if arguments.json else as_text(summary)) + "\n")
    dist.barrier()
    return 1 if status == "failed" else 0


def _lay_out(study: Study, runs: Path, workload: Workload) -> Path:
    """Make the run folder; returns that of its one trial."""
    facts = WorkloadFacts(dataset=workload.dataset, data_digest=workload.data_digest, target=workload.target)
    label = next(iter(study.workloads))
    trial = expand(study, {label: facts}, threads_per_rank=torch.get_num_threads())[0]
    trial_dir = (runs / study.name / trial.id).absolute()
    trial_dir.mkdir(parents=True)
    write_versioned(trial_dir.parent / "study.json", study.model_dump(mode="json"))
    write_versioned(trial_dir / "trial.json", as_json(trial))
    return trial_dir


def main() -> None:
    """Parse the command line, run, and leave with the documented exit code."""
    app = App(name="python -m paceline.train", help="One trial under torchrun.", result_action="return_value")
    app.default(train)
    try:
        code = app()
    except PacelineError as error:
        sys.stderr.write(f"paceline: {error}\n")
        code = error.exit_code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0)  # destroying process groups at exit aborts now and then


if __name__ == "__main__":
    main()
