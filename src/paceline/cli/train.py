"""``paceline train``."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from paceline.arguments import TrainArguments


def train(
    *,
    ranks: Annotated[int, Parameter(help="number of ranks, in total")] = 1,
    cluster: Annotated[Path | None, Parameter(help="a cluster file: its hosts share the ranks evenly")] = None,
    arguments: TrainArguments,
) -> int:
    """Run a single trial, always anew, in a run folder of its own."""
    from paceline.arguments import free_name
    from paceline.cli.output import print_json, print_text
    from paceline.cli.progress import make_watcher
    from paceline.cluster import THIS_HOST, load_cluster
    from paceline.errors import UsageError
    from paceline.plan.run import run_study
    from paceline.summary import as_text, summarize

    place = load_cluster(cluster) if cluster else THIS_HOST
    num_hosts = max(1, min(ranks, len(place.hosts)))
    if ranks % num_hosts:
        raise UsageError(f"{num_hosts} hosts cannot share {ranks} ranks evenly; ask for a multiple of {num_hosts}")
    study = free_name(arguments.study(num_ranks=ranks, num_hosts=num_hosts), arguments.runs)
    with closing(make_watcher()) as watcher:
        result = run_study(
            study, runs_dir=arguments.runs, data_dir=arguments.data_dir, watcher=watcher, check=False, cluster=place
        )
    summary = summarize(result.run_dir / result.trials[0].id)
    if arguments.json:
        print_json(summary)
    else:
        print_text(as_text(summary))
    return 1 if result.count("failed") else 0
