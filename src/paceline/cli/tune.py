"""``paceline tune``."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from paceline.analysis.tuning import Search, Tuning


def tune(
    study: Path,
    *,
    runs: Path = Path("runs"),
    data_dir: Path | None = None,
    cluster: Path | None = None,
    check: Annotated[bool, Parameter(negative="--no-check", help="check the study before its first trial")] = True,
    set: Annotated[list[str] | None, Parameter(help="override a setting: KEY=VALUE, may be repeated")] = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Run the tuning of a study, or go on with it; then print what was chosen. `paceline run` does so first by itself.

    Parameters
    ----------
    study:
        A study file with a [tuning] table.
    runs:
        Folder of all runs; the tuning goes to RUNS/NAME/tuning.
    data_dir:
        Where to look for data first.
    cluster:
        A cluster file, as for `paceline run`.
    json:
        Print one JSON object, with every configuration that was tried.
    """
    from paceline.cli.output import print_json, say
    from paceline.cli.progress import make_watcher
    from paceline.cluster import cluster_of
    from paceline.plan.control import refuse_rival
    from paceline.plan.run import tune_study
    from paceline.study import load

    settings = load(study, set or ())
    place = cluster_of(study, cluster)
    refuse_rival((runs / settings.name).absolute())
    with closing(make_watcher()) as watcher:
        tuning = tune_study(settings, runs_dir=runs, data_dir=data_dir, watcher=watcher, check=check, cluster=place)
    if json:
        print_json(as_json(settings.name, tuning))
    else:
        _print(tuning)
    num_failed = sum(one.num_failed for search in tuning.searches for one in search.configurations)
    if num_failed:
        say(f"{num_failed} tuning trials failed; run the same command to try them again")
    return 1 if num_failed else 0


def as_json(study: str, tuning: Tuning) -> dict[str, Any]:
    """Every search with its configurations as one JSON object."""
    from dataclasses import asdict

    from paceline.records import SCHEMA_VERSION

    return {
        "schema_version": SCHEMA_VERSION,
        "study": study,
        "complete": tuning.is_complete,
        "equal_budgets": tuning.has_equal_budgets,
        "searches": [asdict(search) for search in tuning.searches],
    }


def _print(tuning: Tuning) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from paceline.cli.output import console

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for column in ("tuned", "chosen", "time to target", "tried", "training", "node-hours"):
        table.add_column(column, overflow="fold")
    several = len({search.workload for search in tuning.searches}) > 1
    for search in tuning.searches:
        name = f"{search.label}@{search.scale}" + (f" on {search.workload}" if several else "")
        table.add_row(*(Text(cell) for cell in (name, *_row(search))))
    console().print(table)


def _row(search: Search) -> tuple[str, ...]:
    from paceline.plan.tune import in_words
    from paceline.report.words import score, seconds

    chosen, tried = search.chosen, f"{search.num_over} of {len(search.configurations)}"
    cost = (tried, seconds(search.train_time_s), f"{search.node_hours:.3g}")
    if chosen is None or chosen.score_s is None:
        return ("not chosen yet", "", *cost)
    reached = seconds(chosen.score_s)
    if chosen.num_reached < chosen.num_seeds:
        missed = chosen.num_seeds - chosen.num_reached
        reached = f"missed by {missed} of {chosen.num_seeds} seeds"
        if chosen.best_value is not None:
            reached += f", best {search.metric} {score(search.metric, chosen.best_value)}"
    return (in_words(chosen.hyperparameters, search.searched), reached, *cost)
