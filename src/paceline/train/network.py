"""How fast the network between a job's hosts is, measured by its ranks before the first trial: ``network.json``."""

from __future__ import annotations

from contextlib import suppress

from paceline.job import Job, network_path
from paceline.records import AllReduce, Network, write_json
from paceline.strategies.ranks import Ranks
from paceline.study_tables import Scale
from paceline.train import failure, sweep
from paceline.train.group import Groups

NAME = "all-reduce between hosts"


def scales(job: Job) -> set[Scale]:
    """That of the ranks that measure, one on each host; none where there is one host only."""
    return {Scale(num_hosts=job.num_hosts, ranks_per_host=1)} if job.num_hosts > 1 else set()


def is_wanted(job: Job) -> bool:
    """Whether the network is to be measured, as rank 0 finds it: there is one, and no attempt did so, or died of it."""
    return job.num_hosts > 1 and not network_path(job.folder, job.group).exists() and job.running() != NAME


def measure(job: Job, groups: Groups, rank: int) -> None:
    """Measure; ``rank`` 0 writes what was found. Takes two seconds, on slow networks a few more."""
    for scale in scales(job):
        if groups.has_part(scale):
            try:
                _measure(job, groups.ranks(scale))
            except Exception as error:
                with suppress(OSError):  # a full disk must not hide the error
                    failure.leave_word(job.logs, rank, error)
                raise


def _measure(job: Job, ranks: Ranks) -> None:
    if ranks.rank == 0:
        job.mark_running(NAME)
    measured = tuple(AllReduce.model_validate(entry) for entry in sweep.measure(ranks.group, ranks.device))
    if ranks.rank == 0:
        found = Network(num_hosts=job.num_hosts, backend=ranks.backend, all_reduce=measured)
        write_json(network_path(job.folder, job.group), found.model_dump(mode="json"))
