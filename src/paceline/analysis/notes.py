"""What a reader must know before believing a time: shared cores, hosts that are one machine, unfinished trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from paceline.analysis.load import Run, TrialResult
from paceline.records import Start


def notes(run: Run) -> Iterator[str]:
    """Remarks in whole sentences, the gravest first."""
    yield from _shared_cores(run.results)
    yield from _one_machine(run.results)
    yield from _unfinished(run)
    yield from _incomplete(run.results)


def _shared_cores(results: Sequence[TrialResult]) -> Iterator[str]:
    """A host whose ranks ask for more threads than the cores that they may use."""
    seen: dict[tuple[int, int, int, str], None] = {}
    for result in results:
        hosts: dict[str, list[Start]] = {}
        for start in result.starts:
            hosts.setdefault(start.host, []).append(start)
        for host, starts in hosts.items():
            cores = _usable_cores(starts)
            threads = sum(start.num_threads for start in starts)
            if len(starts) > 1 and threads > cores:
                seen.setdefault((len(starts), starts[0].num_threads, cores, host))
    for num_ranks, num_threads, cores, host in sorted(seen):
        yield (
            f"Ranks shared cores: {num_ranks} ranks of {_count(num_threads, 'thread')} each ran on "
            f"{_count(cores, 'core')} of {host}. They hindered each other, so times at {num_ranks} ranks say little "
            "of a machine with a core for every thread."
        )


def _usable_cores(starts: Sequence[Start]) -> int:
    allowed = set().union(*(start.affinity for start in starts))
    return len(allowed) or max(start.num_cores for start in starts)


def _one_machine(results: Sequence[TrialResult]) -> Iterator[str]:
    named = {
        (result.trial.num_hosts, next(iter(hosts)))
        for result in results
        if result.trial.num_hosts > 1 and len(hosts := {start.host for start in result.starts}) == 1
    }
    for num_hosts, host in sorted(named):
        yield f"The {num_hosts} hosts of a scale are one machine, {host}: nothing crossed a network."


def _unfinished(run: Run) -> Iterator[str]:
    over = sum(result.is_over for result in run.results)
    if over < run.num_planned:
        yield (
            f"The study is not finished: {over} of {_count(run.num_planned, 'trial')} are over. A trial that has not "
            "reached the target yet counts as not having reached it; every number here may change."
        )


def _incomplete(results: Sequence[TrialResult]) -> Iterator[str]:
    missing = Counter(rank for result in results if result.is_over for rank in result.missing_ranks)
    if missing:
        trials = [result.folder.name for result in results if result.is_over and result.missing_ranks]
        ranks = ", ".join(str(rank) for rank in sorted(missing))
        yield (
            f"Records are missing of rank {ranks} in {_count(len(trials), 'trial')} ({trials[0]}"
            f"{' and others' if len(trials) > 1 else ''}): memory and bytes there are of the other ranks only."
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
