"""Tables for people who go on by themselves: one row a trial, or one row an evaluation and metric (long form)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from paceline.analysis.compare import Comparison
from paceline.analysis.load import Run

if TYPE_CHECKING:
    import pandas as pd

_CELL = ("workload", "label", "optimizer", "strategy", "num_hosts", "ranks_per_host", "num_ranks", "global_batch_size")
_TRIAL = (
    "status",
    "cause",
    "time_to_target_s",
    "updates_to_target",
    "samples_to_target",
    "gradient_evaluations_to_target",
    "bytes_to_target",
    "train_time_s",
    "wall_time_s",
    "num_updates",
    "examples_per_s",
)
_WHO = ("id", "workload", "label", "strategy", "num_hosts", "ranks_per_host", "seed")
_TOTALS = (
    *("epoch", "epoch_end", "num_updates", "num_samples", "num_gradient_evaluations", "bytes_sent", "num_collectives"),
    *("train_time_s", "data_s", "compute_s", "communication_s", "optimizer_s"),
)


def trials_frame(comparison: Comparison) -> pd.DataFrame:
    """One row a trial: its cell, its way to the target (missing where not reached), its last scores.

    ``hyperparameters`` is JSON; scores are columns ``validation_METRIC`` and ``test_METRIC``.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for cell in comparison.cells:
        for trial in cell.trials:
            row: dict[str, Any] = {"trial": trial.id, "cell": cell.name, "seed": trial.seed}
            row |= {field: getattr(cell, field) for field in _CELL}
            row["hyperparameters"] = json.dumps(cell.hyperparameters, sort_keys=True)
            row |= {"target_metric": cell.target.metric, "target_value": cell.target.value}
            row |= {field: getattr(trial, field) for field in _TRIAL}
            row |= {f"validation_{metric}": value for metric, value in trial.validation.items()}
            row |= {f"test_{metric}": value for metric, value in trial.test.items()}
            rows.append(row)
    frame = pd.DataFrame(rows)
    whole = [field for field in _TRIAL if field.endswith("_to_target") and not field.startswith("time")]
    return frame.astype({"cause": "string", **dict.fromkeys(whole, "Int64")})


def evaluations_frame(run: Run) -> pd.DataFrame:
    """One row for each evaluation, split and metric, with the totals since the trial began."""
    import pandas as pd

    blocks: list[dict[str, NDArray[Any]]] = []
    for result in run.results:
        own = result.evaluations
        scores = [(split, metric) for split in ("train", "validation") for metric in own.names(split)]
        if not scores:
            continue
        whole = len(own) * len(scores)
        block = {name: np.full(whole, getattr(result.trial, name), dtype=np.object_) for name in _WHO}
        block |= {name: np.repeat(own.column(name), len(scores)) for name in _TOTALS}
        for name, values in zip(("split", "metric"), zip(*scores, strict=True), strict=True):
            block[name] = np.tile(np.array(values, dtype=np.object_), len(own))
        block["value"] = np.column_stack([own.column(*score) for score in scores]).ravel()
        blocks.append(block)
    names = (*_WHO, *_TOTALS, "split", "metric", "value")
    frame = pd.DataFrame({name: np.concatenate([block[name] for block in blocks] or [np.array([])]) for name in names})
    return frame.rename(columns={"id": "trial"}).infer_objects()
