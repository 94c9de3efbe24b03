"""The words that start a single trial, shared by ``paceline train`` and ``torchrun -m paceline.train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from paceline.study import Study, apply_override, validate


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """One trial in words."""

    workload: Annotated[str, Parameter(help="a name from `paceline list workloads`, or module:attribute")]
    optimizer: Annotated[str, Parameter(help="a name from `paceline list optimizers`, or module:attribute")]
    strategy: Annotated[str, Parameter(help="how ranks share the work; auto: single at one rank, ddp above")] = "auto"
    threads: Annotated[int | None, Parameter(help="threads per rank; default: the cores shared by the ranks")] = None
    seed: Annotated[int, Parameter(help="decides initial parameters and the order of examples")] = 0
    epochs: Annotated[int, Parameter(help="passes over the training set")] = 5
    global_batch_size: Annotated[int, Parameter(help="examples per update, summed over ranks")] = 64
    set: Annotated[
        list[str] | None,
        Parameter(help="any setting of the study file, or optimizer.NAME=VALUE, workload.NAME=VALUE"),
    ] = None
    data_dir: Annotated[Path | None, Parameter(help="where to look for data first")] = None
    runs: Annotated[Path, Parameter(help="folder of all runs")] = Path("runs")
    json: Annotated[bool, Parameter(help="print the result as one JSON object", negative=())] = False

    def study(self, *, num_ranks: int, num_hosts: int = 1) -> Study:
        """A study of this one trial.

        Raises: UsageError that lists every mistake.
        """
        workload, optimizer = (name.replace(":", ".").replace("/", "-") for name in (self.workload, self.optimizer))
        settings: dict[str, Any] = {
            "name": f"train_{workload}_{optimizer}_{num_ranks}_seed{self.seed}"[:60],
            "seeds": [self.seed],
            "max_epochs": self.epochs,
            "scales": [f"{num_hosts}x{num_ranks // num_hosts}"],
            "strategies": [self.strategy],
            "batch": {"rule": "global", "global_batch_size": self.global_batch_size},
            "workloads": {workload: {"name": self.workload}},
            "optimizers": {optimizer: {"name": self.optimizer}},
        }
        if self.threads is not None:
            settings["threads_per_rank"] = self.threads
        tables = {"optimizer": settings["optimizers"][optimizer], "workload": settings["workloads"][workload]}
        for override in self.set or ():
            kind, _, rest = override.partition(".")
            table, setting = (tables[kind], rest) if kind in tables else (settings, override)
            apply_override(table, setting)
        return validate(settings, source="paceline train")


def free_name(study: Study, runs: Path) -> Study:
    """The study under a name whose run folder does not exist: a single trial always runs anew, and erases nothing."""
    number, name = 1, study.name
    while (runs / name).exists():
        number += 1
        name = f"{study.name[:58]}_{number}"
    return study.model_copy(update={"name": name})
