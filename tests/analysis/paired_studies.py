"""Synthetic cells with given times: what the statistics see of a study, without its files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from paceline.analysis.cells import Arrival, Cell, TrialRow, median_or_none
from paceline.analysis.noise import AaPair
from paceline.analysis.paired import Ratio
from paceline.cards import Target

HORIZON_S = 100.0


def make_row(seed: int, time_s: float | None) -> TrialRow:
    spent = HORIZON_S if time_s is None else time_s
    to_target = None if time_s is None else round(100 * time_s)
    return TrialRow(
        id=f"t{seed}",
        folder=f"t{seed}",
        seed=seed,
        status="completed",
        cause="",
        time_to_target_s=time_s,
        updates_to_target=to_target,
        samples_to_target=to_target,
        gradient_evaluations_to_target=to_target,
        bytes_to_target=to_target,
        train_time_s=spent,
        wall_time_s=spent,
        num_updates=round(100 * spent),
        num_samples=round(100 * spent),
        num_gradient_evaluations=round(100 * spent),
        bytes_sent=0,
        time_per_update_s=0.01,
        examples_per_s=100.0,
        validation={},
        test={},
    )


def make_cell(name: str, times_s: Sequence[float | None], **changes: Any) -> Cell:
    """``name`` is LABEL@RANKS; None is a miss."""
    label, _, ranks = name.partition("@")
    rows = tuple(make_row(seed, time_s) for seed, time_s in enumerate(times_s))
    median = median_or_none(times_s)
    arrival = Arrival(median=median, restricted_mean=math.nan, expected=None, horizon=HORIZON_S)
    fields: dict[str, Any] = {
        "name": f"w/{label}+{'single' if ranks == '1' else 'ddp'}@1x{ranks}",
        "workload": "w",
        "label": label,
        "optimizer": label,
        "strategy": "single" if ranks == "1" else "ddp",
        "num_ranks": int(ranks),
        "num_hosts": 1,
        "ranks_per_host": int(ranks),
        "global_batch_size": 64,
        "threads_per_rank": 1,
        "hyperparameters": {},
        "target": Target(value=0.9),
        "num_planned": len(rows),
        "num_trials": len(rows),
        "num_over": len(rows),
        "num_reached": sum(row.reached for row in rows),
        "success_rate": 1.0,
        "statuses": {},
        "time_to_target_s": median,
        "updates_to_target": None,
        "samples_to_target": None,
        "gradient_evaluations_to_target": None,
        "bytes_to_target": None,
        "node_hours_to_target": None if median is None else median / 3600,
        "arrivals": {"time": arrival},
        "final_validation_accuracy": None,
        "final_validation": {},
        "test": {},
        "examples_per_s": None,
        "update_time_s": None,
        "mean_update_time_s": None,
        "time_split": {},
        "bytes_per_update": None,
        "peak_memory_bytes": None,
        "trials": rows,
    }
    return Cell(**(fields | changes))


def make_cells(times_s: Mapping[str, Sequence[float | None]]) -> list[Cell]:
    return [make_cell(name, own) for name, own in times_s.items()]


def quiet(floor: float | None = 1.0001) -> list[AaPair]:
    """A machine whose noise is ``floor``."""
    ratio = Ratio(value=1.0, low=1.0, high=1.0, num_pairs=8)
    return [AaPair(workload="w", cell="w/a+single@1x1", ratio=ratio, p_value=1.0, floor=floor, largest=1.0)]
