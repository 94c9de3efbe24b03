"""Checks of what ranks recorded: replicas, shards, order, clocks, collectives, evaluation. Each takes a Run."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from paceline.analysis.cells import PARTS
from paceline.analysis.load import RankRecords, Run, TrialResult
from paceline.analysis.outcome import Outcome, failed, passed, skipped
from paceline.data.order import combine_digests, indices_digest
from paceline.records import DONE
from paceline.strategy_cards import strategy_card

CLOCK_STEP_S = 1.0  # by how much a host's clock may be set back without being a jump
SLACK = 1.01  # how much the parts of the training time may exceed it, being means over ranks of separate marks


def whole(run: Run) -> Outcome:
    """Every rank of a trial that is over recorded each epoch and its end, and rank 0 each evaluation."""
    over = [result for result in run.results if result.status in DONE]
    for result in over:
        if lacks := _lacks(result):
            return failed(
                f"{result.folder.name} is {result.status}, but {lacks}: files of it were damaged since. Restore them "
                "from a backup, or remove its folder and run the study again"
            )
    if not over:
        return skipped("no trial is over yet")
    return passed(f"every rank of {len(over):,} trials that are over recorded each epoch and its end")


def _lacks(result: TrialResult) -> str:
    """What is missing in the records of a trial that is over, in words; empty if nothing is."""
    if result.missing_ranks:  # which the check of their shards tells
        return ""
    if not result.ranks:
        return "no rank has left a record"
    is_end = result.evaluations.column("epoch_end").astype(bool)
    evaluated = result.evaluations.column("epoch")[is_end]
    if np.any(evaluated != np.arange(1, len(evaluated) + 1)):
        return "an evaluation is missing that was made after an epoch"
    lacks = (_rank_lacks(rank, result, num_evaluated=len(evaluated)) for rank in result.ranks)
    return next(filter(None, lacks), "")


def _rank_lacks(rank: RankRecords, result: TrialResult, *, num_evaluated: int) -> str:
    if rank.end is None:
        return f"rank {rank.rank} has not recorded its end"
    is_gapless = bool(np.all(np.diff(rank.epochs.column("epoch")) == 1))
    if not is_gapless or (result.status == "completed" and len(rank.epochs) < num_evaluated):
        return f"rank {rank.rank} has recorded {len(rank.epochs)} epochs of {num_evaluated}"
    last = result.evaluations[-1].num_updates if len(result.evaluations) else 0
    if result.status == "completed" and last != rank.end.num_updates:
        return f"the last evaluation was after {last:,} of {rank.end.num_updates:,} updates"
    return ""


def replicas(run: Run) -> Outcome:
    """Parameters are identical on all ranks at the end of each epoch."""
    compared = 0
    for result in run.results:
        digests = [rank.epochs.column("parameters_digest") for rank in result.ranks]
        if len(digests) < 2:
            continue
        shared = min(len(own) for own in digests)
        compared += shared
        for rank, own in zip(result.ranks[1:], digests[1:], strict=True):
            unlike = np.flatnonzero(own[:shared] != digests[0][:shared])
            if len(unlike):
                return failed(
                    f"rank {rank.rank} of {result.folder.name} had other parameters than rank 0 after epoch "
                    f"{unlike[0] + 1}: the ranks fell out of step"
                )
    if not compared:
        return skipped("no trial of several ranks has finished an epoch")
    return passed(f"the parameters of all ranks had the same digest after each of {compared:,} epochs")


def shards(run: Run) -> Outcome:
    """In each epoch the parts of the ranks are disjoint and complete."""
    counted = 0
    for result in run.results:
        if result.is_over and result.missing_ranks:
            return failed(
                f"there is no record of rank {result.missing_ranks[0]} in {result.folder.name}, so that nobody knows "
                "which examples it saw"
            )
        expected = _digest_of_all(_num_train(result))
        for epoch, digest in enumerate(_combined(result.ranks, "indices_digest"), start=1):
            if digest != expected:
                return failed(_wrong_shards(result, epoch, digest))
            counted += 1
    if not counted:
        return skipped("no trial has finished an epoch")
    return passed(f"in each of {counted:,} epochs every training example was seen exactly once, over all ranks")


def start_and_order(run: Run) -> Outcome:
    """Trials of one seed begin with the same parameters and see the same examples in each update."""
    initial: dict[tuple[str, int], tuple[str, str]] = {}
    orders: dict[tuple[str, int, int], tuple[NDArray[np.object_], str]] = {}
    paired = 0
    for result in run.results:
        trial = result.trial
        for start in result.starts:
            digest = start.initial_parameters_digest
            first, name = initial.setdefault((trial.workload, trial.seed), (digest, result.folder.name))
            if first != digest:
                return failed(f"{result.folder.name} began with other parameters than {name} of the same seed")
            paired += name != result.folder.name
        complete = () if result.missing_ranks else result.ranks
        order = np.array(list(_combined(complete, "order_digest")), dtype=object)
        key = (trial.workload, trial.seed, trial.global_batch_size)
        before, name = orders.setdefault(key, (order, result.folder.name))
        epoch = _first_unlike(before, order)
        if epoch is not None:
            return failed(
                f"{result.folder.name} saw its examples in another order than {name} in epoch {epoch + 1}, though "
                "seed and global batch are the same"
            )
        if len(order) > len(before):
            orders[key] = (order, result.folder.name)
    if not paired:
        return skipped("no two trials have the same seed")
    return passed("trials with the same seed began with the same parameters and saw the same examples in each update")


def validation_set(run: Run) -> Outcome:
    """All trials of a workload are scored on the same validation set, all of it."""
    sizes: dict[str, tuple[dict[str, int], str]] = {}
    scored = 0
    for result in run.results:
        name = result.folder.name
        for start in result.starts:
            first, other = sizes.setdefault(result.trial.workload, (start.num_examples, name))
            if first != start.num_examples:
                return failed(f"the splits of {name} have {start.num_examples} examples, those of {other} {first}")
        counts = result.evaluations.column("num_validation")
        known = counts[counts != None]  # noqa: E711 - element by element
        expected = sizes[result.trial.workload][0].get("validation") if result.starts else None
        if expected is not None and np.any(known != expected):
            wrong = known[known != expected][0]
            return failed(f"{name} was scored on {wrong:,} validation examples of {expected:,}")
        scored += len(known)
    if not scored:
        return skipped("no evaluation counted its examples")
    of = " and ".join(f"{size.get('validation', 0):,}" for size, _ in sizes.values())
    return passed(f"each of {scored:,} evaluations scored all of the {of} validation examples")


def clocks(run: Run) -> Outcome:
    """Time goes on: the training time grows, hosts' clocks are not set back, and the parts of the time fit into it."""
    looked = 0
    for result in run.results:
        trained = result.evaluations.column("train_time_s")
        looked += len(trained)
        if np.any(np.diff(trained, prepend=0.0) < 0):
            return failed(f"the training time of {result.folder.name} went back at evaluation {_first_drop(trained)}")
        written = result.evaluations.column("time")
        if np.any(np.diff(written) < -CLOCK_STEP_S):
            return failed(f"the clock of the host was set back while {result.folder.name} ran")
        parts = sum(result.evaluations.column(f"{part}_s") for part in PARTS)
        if np.any(parts > trained * SLACK + 1e-6):
            return failed(f"the parts of the training time of {result.folder.name} exceed the whole")
    if not looked:
        return skipped("there is no evaluation yet")
    return passed(f"no clock went back between {looked:,} evaluations, and the parts of the training time fit into it")


def finite(run: Run) -> Outcome:
    """All values are finite; a trial whose loss is not ends as diverged and loses."""
    diverged = [result.folder.name for result in run.results if result.status == "diverged"]
    for result in run.results:
        if result.status != "diverged" and len(result.evaluations):
            losses = result.evaluations.column("validation", "loss"), result.evaluations.column("train", "loss")
            if not all(np.all(np.isfinite(own)) for own in losses):
                return failed(f"{result.folder.name} went on after its loss was no longer finite")
    if diverged:
        more = f" and {len(diverged) - 1} more" if len(diverged) > 1 else ""
        return failed(f"{diverged[0]}{more} diverged and ended at once; counted as never reaching the target")
    if not any(len(result.evaluations) for result in run.results):
        return skipped("there is no evaluation yet")
    return passed("every recorded loss is finite")


def size_kept(run: Run) -> Outcome:
    """Every trial ran on as many ranks as it was to; one that did not, at any time, is degraded and not compared."""
    started = [result for result in run.results if result.starts]
    degraded = [result for result in started if result.status == "degraded"]
    if degraded:
        first, more = degraded[0], f" (and {len(degraded) - 1} more)" if len(degraded) > 1 else ""
        return failed(
            f"{first.folder.name}{more} is not compared: {first.cause.partition(';')[0]}. Remove the folders of such "
            "trials and run the study again to have their seeds back"
        )
    if not started:
        return skipped("no rank has started yet")
    return passed(f"each of {len(started):,} trials ran on as many ranks as it was to, from start to end")


def collectives(run: Run) -> Outcome:
    """Every rank made the same collectives, and as many for each gradient evaluation as its strategy needs."""
    each: dict[tuple[str, str, int, str], tuple[float, str]] = {}
    for result in run.results:
        counts = [rank.epochs.column("num_collectives") for rank in result.ranks]
        shared = min((len(own) for own in counts), default=0)
        for rank, own in zip(result.ranks[1:], counts[1:], strict=False):
            if np.any(own[:shared] != counts[0][:shared]):
                return failed(f"rank {rank.rank} of {result.folder.name} made other collectives than rank 0")
        if not len(result.evaluations):
            continue
        last, trial, name = result.evaluations[-1], result.trial, result.folder.name
        per_gradient = last.num_collectives / max(1, last.num_gradient_evaluations)
        if trial.strategy == "single" and per_gradient:
            return failed(f"{name} made {last.num_collectives:,} collectives, and a process alone needs none")
        if not strategy_card(trial.strategy_of_registry).steady:
            continue
        of_cell = trial.workload, trial.strategy, trial.num_ranks, trial.label
        first, other = each.setdefault(of_cell, (per_gradient, name))
        if not math.isclose(first, per_gradient):
            return failed(f"{name} made {per_gradient:.3g} collectives a gradient evaluation, {other} {first:.3g}")
    if not each:
        return skipped("there is no evaluation yet")
    found = {(f"{number:.3g}", strategy, ranks) for (_, strategy, ranks, _), (number, _) in each.items()}
    told = ", ".join(
        f"{number} with {strategy} on {ranks} rank{'s' * (ranks > 1)}"
        for number, strategy, ranks in sorted(found, key=lambda one: (one[2], one))
    )
    return passed(f"collectives for each gradient evaluation, the same in all seeds and ranks: {told}")


def one_curve(run: Run) -> Outcome:
    """Reproducible trials that differ in their scale alone have the same parameters after each epoch, to the bit."""
    curves: dict[str, tuple[NDArray[np.object_], TrialResult]] = {}
    compared = 0
    for result in run.results:
        trial = result.trial
        if not trial.num_microbatches or not result.ranks:
            continue
        rules = trial.workload, trial.label, trial.seed, trial.hyperparameters, trial.global_batch_size
        digests = result.ranks[0].epochs.column("parameters_digest")
        before, other = curves.setdefault(repr(rules), (digests, result))
        epoch = _first_unlike(before, digests)
        if epoch is not None:
            return failed(
                f"{result.folder.name} had other parameters than {other.folder.name} after epoch {epoch + 1}, "
                "though reproducible = true asks for the same bits at every scale"
            )
        if str(trial.scale) != str(other.trial.scale):
            compared += min(len(before), len(digests))
        if len(digests) > len(before):
            curves[repr(rules)] = digests, result
    if not compared:
        return skipped(
            "reproducible = true was not asked for" if not curves else "no two scales have finished an epoch"
        )
    return passed(
        f"the parameters had the same bits at every scale after each of {compared:,} epochs: the curves of an "
        "optimizer and a seed are one curve, and only time differs"
    )


def _first_unlike(one: NDArray[np.object_], other: NDArray[np.object_]) -> int | None:
    """Where two columns first differ, as far as both go; None if they do not."""
    shared = min(len(one), len(other))
    unlike = np.flatnonzero(one[:shared] != other[:shared])
    return int(unlike[0]) if len(unlike) else None


def _combined(ranks: Sequence[RankRecords], field: str) -> Iterator[str]:
    """The digests of all ranks added up, epoch by epoch, as far as every rank has recorded it."""
    columns = [rank.epochs.column(field).tolist() for rank in ranks]
    for own in zip(*columns, strict=False):
        if all(own):
            yield own[0] if len(own) == 1 else _combine(own)


_combine: Callable[[tuple[str, ...]], str] = functools.lru_cache(maxsize=65536)(combine_digests)


@functools.lru_cache(maxsize=16)
def _digest_of_all(num_examples: int) -> str:
    return indices_digest(np.arange(num_examples))


def _num_train(result: TrialResult) -> int:
    return next((start.num_examples.get("train", 0) for start in result.starts), 0)


def _wrong_shards(result: TrialResult, epoch: int, digest: str) -> str:
    seen, total = int(digest.partition("-")[0]), _num_train(result)
    if seen != total:
        times = f": {seen / total:.3g} times the data" if total and seen % total == 0 else ""
        return (
            f"the ranks of {result.folder.name} saw {seen:,} examples in epoch {epoch} of {total:,} that exist{times}"
        )
    return f"the ranks of {result.folder.name} saw some examples twice and others never in epoch {epoch}"


def _first_drop(values: NDArray[np.float64]) -> int:
    return int(np.flatnonzero(np.diff(values, prepend=0.0) < 0)[0]) + 1
