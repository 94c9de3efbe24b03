"""Trials of tests: how one is described (here), and run (on ranks)."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from paceline.cards import Target
from paceline.study import validate
from paceline.trial import Trial, WorkloadFacts, expand

TOY = "workloads.toy:build"
RUN = "train.trials:run"
BY_HAND = "train.trials:by_hand"


def toy_settings(**changes: Any) -> dict[str, Any]:
    """Settings of a small study of one trial; ``changes`` replace whole settings."""
    settings: dict[str, Any] = {
        "name": "toy",
        "seeds": [0],
        "aa_pair": False,
        "max_epochs": 2,
        "scales": [1],
        "threads_per_rank": 1,
        "device": "cpu",
        "batch": {"rule": "global", "global_batch_size": 50},
        "workloads": {"toy": {"name": TOY}},
        "optimizers": {"sgd": {}},
    }
    return settings | changes


def toy_trial(*, num_ranks: int = 1, optimizer: dict[str, Any] | None = None, toy: dict[str, Any] | None = None,
              global_batch_size: int = 50, **changes: Any) -> Trial:  # fmt: skip
    """One trial of the toy workload.

    Args:
        optimizer: its table, such as ``{"name": "adam", "lr": 0.01}``.
        toy: options of the workload.
    """
    settings = toy_settings(
        scales=[num_ranks],
        batch={"rule": "global", "global_batch_size": global_batch_size},
        workloads={"toy": {"name": TOY, "options": toy or {}}},
        optimizers={"opt": optimizer or {"name": "sgd"}},
    )
    study = validate(settings | changes, source="test")
    facts = WorkloadFacts(dataset="toy", data_digest="0" * 16, target=Target(value=0.5))
    (trial,) = expand(study, {"toy": facts}, threads_per_rank=1)
    return trial


def folder_of(trial: Trial, runs: Path) -> Path:
    """A new folder for one run of ``trial``."""
    folder = runs / f"{len(list(runs.iterdir())):03d}_{trial.id}"
    folder.mkdir()
    return folder


def run(ranks: Any, *, trial: dict[str, Any], folder: str) -> dict[str, Any]:
    """On a rank: run a trial; returns its end record, its parameters, and how many examples were served."""
    from torch._dynamo.utils import counters

    from paceline.train import checkpoint
    from paceline.train.loop import run_trial
    from paceline.workloads.base import WorkloadRequest
    from workloads import toy

    counters["stats"].clear()
    asked = Trial.model_validate(trial)
    workload = toy.build(WorkloadRequest.of(asked.workload_entry, None))
    end = run_trial(asked, workload, ranks, Path(folder))
    ranks.barrier()  # rank 0 writes the checkpoint
    state = checkpoint.load_newest(Path(folder))
    return {
        "end": end.model_dump(mode="json"),
        "parameters": flat(state["model"]) if state else None,
        "served": dict(workload.served),
        "num_compiled_graphs": counters["stats"]["unique_graphs"],
    }


def refusal(ranks: Any, *, trial: dict[str, Any], folder: str) -> str:
    """On a rank: run a trial that cannot be run; returns what it says."""
    from paceline.errors import UsageError

    try:
        run(ranks, trial=trial, folder=folder)
    except UsageError as error:
        return str(error)
    raise AssertionError("it was run")


def by_hand(ranks: Any, *, trial: dict[str, Any], clip: float) -> dict[str, Any]:
    """On a rank: the same training as a plain loop in torch over whole updates, with the means of what it saw."""
    import torch

    from paceline.data.order import epoch_permutation, update_slices
    from paceline.workloads.base import WorkloadRequest
    from workloads import toy

    asked = Trial.model_validate(trial)
    workload = toy.build(WorkloadRequest.of(asked.workload_entry, None))
    torch.manual_seed(asked.seed)
    model = workload.build_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    epochs = []
    for epoch in range(asked.max_epochs):
        loss_sum = num_right = 0.0
        order = epoch_permutation(workload.num_examples["train"], seed=asked.seed, epoch=epoch)
        for cut in update_slices(len(order), asked.global_batch_size):
            points, labels = workload.batch("train", order[cut], seed=0, epoch=epoch)
            optimizer.zero_grad()
            outputs = model(points)
            loss = torch.nn.functional.cross_entropy(outputs, labels)
            loss.backward()
            if clip < math.inf:
                norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
                for parameter in model.parameters():
                    parameter.grad *= min(1.0, clip / norm)
            optimizer.step()
            loss_sum += loss.item() * len(labels)
            num_right += (outputs.argmax(1) == labels).sum().item()
        epochs.append({"loss": loss_sum / len(order), "accuracy": num_right / len(order)})
    return {"parameters": flat(model.state_dict()), "epochs": epochs}


def sleep_in_turn(ranks: Any) -> dict[str, Any]:
    """On a rank: in update k rank k sleeps, the other does nothing."""
    from paceline.train.clock import OPTIMIZER, Clock, Totals

    clock, totals = Clock(ranks.device), Totals()
    for update in range(2):
        clock.start()
        if update == ranks.rank:
            time.sleep(0.2)
        clock.mark(OPTIMIZER)
        time.sleep(0.3)  # between updates: off the clock
    quantiles = clock.drain(ranks, totals)
    return {
        "train_time_s": totals.train_time_s,
        "own_s": totals.own(),
        "mean_s": totals.mean(),
        "max": quantiles["max"],
    }


def flat(state: dict[str, Any]) -> list[float]:
    """All tensors of a model's state in one list."""
    return [value for tensor in state.values() for value in tensor.double().flatten().tolist()]


def relative_distance(one: list[float], other: list[float]) -> float:
    """The norm of the difference over the norm of the second."""
    import numpy as np

    first, second = np.array(one), np.array(other)
    return float(np.linalg.norm(first - second) / np.linalg.norm(second))
