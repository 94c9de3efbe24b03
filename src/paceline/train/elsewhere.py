"""Go on with what another trial has computed, on another number of ranks where all ranks have the same.

There, parameters, the optimizer's state and counts are taken as they are; the sums of an unfinished epoch are added up;
the random numbers of that epoch's rest begin anew. Seconds are those of the other scale until there, so that no time of
such a trial can be compared: it is a run of its own, and its records say where it comes from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paceline.errors import UsageError
from paceline.job import read_trial
from paceline.strategy_cards import strategy_card
from paceline.train import checkpoint
from paceline.train.checkpoint import Newest
from paceline.trial import Trial

# What the trial that goes on may choose anew: how ranks share the work, and for how long.
_FREE = {
    *("study", "repeat", "num_hosts", "ranks_per_host", "strategy", "strategy_name", "strategy_settings", "device"),
    *("threads_per_rank", "max_epochs", "max_train_time_s", "evaluate_every", "stop_at_target", "target_value"),
}


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """The trial that another goes on with, and its newest checkpoint, fitted to the other's ranks."""

    trial: Trial
    newest: Newest


def go_on_with(folder: Path, trial: Trial) -> Elsewhere:
    """What ``trial`` is to begin with, from the newest checkpoint of the trial in ``folder``.

    Raises: UsageError if that trial differs in more than where and how long it ran, or its strategy or that of
        ``trial`` lets ranks have state of their own; DataError as ``checkpoint.newest``.
    """
    other = read_trial(folder)
    _refuse_unlike(other, trial)
    found = checkpoint.newest(folder)
    if found is None:
        raise UsageError(f"{folder} has no checkpoint to go on with; begin anew, without --from")
    owns = found.state["ranks"]
    if not _is_shared_alike(other, trial):
        _refuse_own_states(other, trial)
        owns = _dealt_out(owns, trial.num_ranks)
    state = found.state | {"trial": trial.id, "stop": "", "ranks": owns}
    return Elsewhere(trial=other, newest=replace(found, state=state))


def _is_shared_alike(other: Trial, trial: Trial) -> bool:
    """Whether as many ranks share the work in the same way: then each goes on with its own, to the bit."""
    there, here = ((one.num_ranks, one.strategy_of_registry, one.strategy_settings) for one in (other, trial))
    return there == here


def _refuse_own_states(other: Trial, trial: Trial) -> None:
    for one in (other, trial):
        card = strategy_card(one.strategy_of_registry)
        if not card.keeps_replicas or card.changes_gradients or card.cuts != "nothing":
            raise UsageError(
                f"under {one.strategy} ranks have state or gradients of their own, which only as many ranks under the "
                f"same strategy can go on with: {other.num_ranks}, {other.strategy}"
            )


def _refuse_unlike(other: Trial, trial: Trial) -> None:
    there, here = (one.model_dump(mode="json", exclude=_FREE) for one in (other, trial))
    unlike = [f"{key} ({there[key]} there, {here[key]} here)" for key in there if there[key] != here[key]]
    if unlike:
        raise UsageError(f"--from is of a trial with another {', '.join(unlike)}; ask for the same")


def _dealt_out(owns: Sequence[Mapping[str, Any]], num_ranks: int) -> list[dict[str, Any]]:
    """What each of ``num_ranks`` begins with: rank 0's, but for the epoch's sums, which rank 0 gets of all."""
    first = owns[0]
    metrics = Counter[str]()
    for own in owns:
        metrics.update(own["sums"]["metrics"])
    nothing = dict.fromkeys(metrics, 0.0)
    parts = [dict(metrics), *([nothing] * (num_ranks - 1))]
    return [{**first, "generators": {}, "sums": {**first["sums"], "metrics": part}} for part in parts]
