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
    begins_with: Annotated[
        Path | None,
        Parameter(name="--from", help="a run or trial to go on with, maybe on another number of ranks (this host)"),
    ] = None,
    arguments: TrainArguments,
) -> int:
    """Run a single trial in a run folder of its own: anew, or from where another one ended or was interrupted."""
    from paceline.arguments import free_name
    from paceline.cli.output import print_json, print_text
    from paceline.cli.progress import make_watcher
    from paceline.cluster import THIS_HOST, load_cluster
    from paceline.errors import UsageError
    from paceline.plan.run import run_study
    from paceline.summary import as_text, summarize

    place = load_cluster(cluster) if cluster else THIS_HOST
    if begins_with and cluster:
        raise UsageError("--from goes on here, with files of this host; leave --cluster out")
    num_hosts = max(1, min(ranks, len(place.hosts)))
    if ranks % num_hosts:
        raise UsageError(f"{num_hosts} hosts cannot share {ranks} ranks evenly; ask for a multiple of {num_hosts}")
    study = free_name(arguments.study(num_ranks=ranks, num_hosts=num_hosts), arguments.runs)
    with closing(make_watcher()) as watcher:
        result = run_study(
            study,
            runs_dir=arguments.runs,
            data_dir=arguments.data_dir,
            watcher=watcher,
            check=False,
            cluster=place,
            begins_with=begins_with and _trial_in(begins_with),
        )
    summary = summarize(result.run_dir / result.trials[0].id)
    if arguments.json:
        print_json(summary)
    else:
        print_text(as_text(summary))
    return 1 if result.count("failed") else 0


def _trial_in(folder: Path) -> Path:
    """The folder of a trial: this one, or that of the only trial of a run.

    Raises: UsageError if there is none, or there are several.
    """
    from paceline.errors import UsageError
    from paceline.records import trial_dirs

    found = [folder] if (folder / "trial.json").exists() else list(trial_dirs(folder))
    if len(found) == 1:
        return found[0]
    why = f"holds {len(found)} trials: name the folder of one" if found else "holds no trial"
    raise UsageError(f"--from: {folder} {why}")
