"""What a checkpoint holds of a training, and how one goes on from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from paceline.errors import DataError
from paceline.train.checkpoint import Newest
from paceline.train.clock import Totals
from paceline.train.progress import EpochSums, Progress, generators, seed_generators, set_generators

if TYPE_CHECKING:
    from paceline.train.loop import Training


def common_state(training: Training) -> dict[str, Any]:
    """What is the same on every rank, but for the model; every rank calls this, and rank 0 has it."""
    optimizer = training.optimizer  # a rank may hold a part of its state only
    return {
        "trial": training.trial.id,
        "progress": dict(vars(training.progress)),
        "stop": training.stop,
        "optimizer": getattr(optimizer, "gather_state_dict", optimizer.state_dict)(),
    }


def own_state(training: Training) -> dict[str, Any]:
    """What each rank has of its own; its parameters and optimizer too where they are not everybody's."""
    model = training.model
    own: dict[str, Any] = {"strategy": training.strategy.state_dict()}
    if training.trains_elsewhere:
        own["parameters"] = [parameter.detach().cpu().clone() for parameter in model.parameters()]
    if not training.strategy.keeps_replicas:
        own["optimizer"] = training.optimizer.state_dict()
    return own | {
        "totals": training.totals.state_dict(),
        "traffic": dict(vars(training.ranks.traffic)),
        "buffers": {name: buffer.cpu() for name, buffer in model.named_buffers()},
        "generators": generators(training.ranks.device),
        "sums": training.sums.state_dict(),
    }


def restore(training: Training, found: Newest) -> None:
    """Go on from a checkpoint.

    Raises: DataError if it is of another trial, or of one whose model, optimizer or strategy was another.
    """
    state, path = found.state, found.path
    if state.get("trial") != training.trial.id:
        raise DataError(
            f"{path} is of the trial {state.get('trial')}, not of {training.trial.id}; "
            f"remove {path.parent} to begin this one anew"
        )
    try:
        _refuse_other_model(training, state["model"])
        _restore(training, state)
    except (IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:  # what states say that do not fit
        raise DataError(
            f"{path} does not fit this trial: {error or type(error).__name__}; was the code of its contestants "
            f"changed? Remove {path.parent} to begin the trial anew"
        ) from error
    training.mark_saved()


def _refuse_other_model(training: Training, kept: dict[str, Tensor]) -> None:
    """Raises: ValueError if names or shapes of parameters and buffers are not those of the model."""
    expected, given = (
        {name: tuple(value.shape) for name, value in one.items()} for one in (training.model.state_dict(), kept)
    )
    for name in {**expected, **given}:
        if given.get(name) != expected.get(name):
            there, here = (f"of shape {one[name]}" if name in one else "missing" for one in (given, expected))
            raise ValueError(f"{name} is {there} there, and {here} in the model")


def _restore(training: Training, state: dict[str, Any]) -> None:
    model, strategy, ranks, trial = training.model, training.strategy, training.ranks, training.trial
    own = state["ranks"][ranks.rank] if "ranks" in state else state  # of schema 1: rank 0's, after an epoch
    model.load_state_dict(state["model"])
    with torch.no_grad():
        for parameter, kept in zip(model.parameters(), own.get("parameters", ()), strict=False):
            parameter.copy_(kept)
    training.optimizer.load_state_dict(state["optimizer"] if strategy.keeps_replicas else own["optimizer"])
    strategy.load_state_dict(own.get("strategy", {}))
    training.progress = Progress(**state["progress"])
    training.stop = state["stop"]
    training.totals = Totals.from_state_dict(own["totals"])
    vars(ranks.traffic).update(own["traffic"])
    if "ranks" not in state:
        return
    for name, buffer in model.named_buffers():
        buffer.copy_(own["buffers"][name])
    seed_generators(trial.seed, epoch=training.progress.epoch, rank=0 if strategy.same_draws else ranks.rank)
    kept_generators = own["generators"]  # of schema 2: torch's
    set_generators(kept_generators if isinstance(kept_generators, dict) else {"torch": kept_generators}, ranks.device)
    training.sums = EpochSums.from_state_dict(own["sums"], ranks.device)
