"""What ``paceline run --dry-run`` prints."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paceline.cluster import Cluster
    from paceline.plan.dry_run import Plan
    from paceline.study import Study


def show_plan(study: Study, *, data_dir: Path | None, cluster: Cluster, json: bool) -> None:
    """Calibrate, and print what the study would take and could find."""
    from paceline.cli.output import print_json, print_text, say
    from paceline.plan.dry_run import plan

    say("measuring a few updates of every cell; no trial of the study is started")
    made = plan(study, data_dir=data_dir, cluster=cluster)
    if json:
        print_json(as_json(made))
    else:
        print_text("\n".join([*_size(study, made), *_time(made), *_power(made), *(f"note: {r}" for r in made.remarks)]))


def as_json(made: Plan) -> dict[str, Any]:
    """The plan as one JSON object; ``detectable`` by spread."""
    from dataclasses import asdict

    from paceline.records import SCHEMA_VERSION

    low_s, high_s = made.time_s
    told = {"num_trials": made.num_trials, "time_s": {"low": low_s, "high": high_s}}
    detectable = {"detectable": {f"{spread:g}": ratio for spread, ratio in made.detectable.items()}}
    return {"schema_version": SCHEMA_VERSION} | told | asdict(made) | detectable


def _size(study: Study, made: Plan) -> list[str]:
    lines = [f"{made.num_trials} trials"]
    if study.tuning is not None:
        lines.append(
            f"{made.tuning.num_trials:>6} of tuning: {study.tuning.num_trials} configurations for each optimizer and "
            f"scale, {_counted(len(study.tuning.seeds), 'seed')}"
        )
    lines.append(f"{made.final.num_trials:>6} of the cells, {_counted(made.num_seeds, 'seed')}")
    if made.repeats.num_trials:
        lines.append(f"{made.repeats.num_trials:>6} repeats of the baseline, to learn the noise of the machine")
    return lines


def _time(made: Plan) -> list[str]:
    from paceline.report.words import seconds

    low_s, high_s = made.time_s
    span = f"{seconds(low_s)} to {seconds(high_s)}" if high_s > 1.01 * low_s else seconds(high_s)
    early = ", for trials may stop at their target" if high_s > 1.01 * low_s else ""
    return [
        f"estimated time: {span}{early}; from {len(made.paces)} cells with a few updates each:",
        *(
            f"       {pace.cell}: update {seconds(pace.update_time_s)}, evaluation {seconds(pace.evaluation_time_s)}"
            for pace in made.paces
        ),
    ]


def _power(made: Plan) -> list[str]:
    if not made.num_comparisons:
        return ["there is one cell, and nothing to compare it with"]
    number = made.num_comparisons
    asked = f"{_counted(number, 'comparison')} need{'s' * (number == 1)} {made.seeds_needed} seeds or more"
    if made.num_seeds < made.seeds_needed:
        return [f"power: {asked}; with {made.num_seeds} nothing can be claimed"]
    return [
        f"power: {asked}, and there are {made.num_seeds}; a chance of 80 % to find",
        *(
            f"       times that differ by a factor of {ratio:.3g}, if seeds spread by {100 * spread:g} %"
            for spread, ratio in made.detectable.items()
            if math.isfinite(ratio)
        ),
    ]


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
