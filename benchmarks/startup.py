"""How long paceline takes to come up: ``--help``, and from ``paceline run`` to the first update."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.outcome import Row, hand_over, row
from benchmarks.pairs import interleave
from benchmarks.programs import PACELINE, run
from paceline.records import Start, rank_file, read_records

STUDY = """
name = "startup"
seeds = [0]
max_epochs = 1
scales = [{ranks}]
threads_per_rank = 1
batch = {{ rule = "global", global_batch_size = 512 }}
[workloads.logreg-mnist]
dataset = "mnist-small"
[optimizers.sgd]
"""


def measure(quick: bool) -> list[Row]:
    """Seconds of each; a Python that does nothing, for comparison."""
    import sys

    commands = {
        "paceline --help": [*PACELINE, "--help"],
        "a Python that does nothing": [sys.executable, "-c", "pass"],
        "python -c 'import torch'": [sys.executable, "-c", "import torch"],
    }
    seconds = interleave({name: lambda own=own: _seconds(own) for name, own in commands.items()},
                         rounds=3 if quick else 20)  # fmt: skip
    goals = {"paceline --help": 0.3}
    rows = [row(name, own, "s", at_most=goals.get(name)) for name, own in seconds.items()]
    for ranks in (1, 2):
        first = [_first_update(ranks) for _ in range(1 if quick else 3)]
        rows.append(row(f"from `paceline run` to the first update ({ranks} ranks)", first, "s", digits=2))
    return rows


def _seconds(command: list[str]) -> float:
    began = time.perf_counter()
    run(command)
    return time.perf_counter() - began


def _first_update(ranks: int) -> float:
    """The start record is written when all is set up, just before the first update."""
    with tempfile.TemporaryDirectory() as name:
        study = Path(name) / "study.toml"
        study.write_text(STUDY.format(ranks=ranks))
        began = time.time()
        run([*PACELINE, "run", str(study), "--runs", name], check=False)  # the report afterwards is not of interest
        (trial_dir,) = (path.parent for path in Path(name).glob("startup/*/trial.json"))
        started = [record for record in read_records(rank_file(trial_dir, 0)) if isinstance(record, Start)]
    return started[0].time - began


if __name__ == "__main__":
    hand_over(measure)
