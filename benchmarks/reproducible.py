"""What ``reproducible = true`` costs: whole updates of LeNet-5 by Adam, beside the usual strategy."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.outcome import Row, hand_over, last_json, row
from benchmarks.pairs import interleave, ratios
from benchmarks.programs import run, torchrun
from paceline import registry
from paceline.data.order import rank_part
from paceline.workloads.base import WorkloadRequest

NUM_MICROBATCHES = 4


def measure(quick: bool) -> list[Row]:
    """Rows for one rank and for two, one thread each."""
    rows: list[Row] = []
    for num_ranks in (1, 2):
        for batch in (64, 256):
            found = last_json(run(torchrun(num_ranks, "benchmarks.reproducible", "--rank", batch, 5 if quick else 40)))
            where = f"LeNet-5, {batch} digits, {num_ranks} rank{'s' * (num_ranks > 1)}, V = {NUM_MICROBATCHES}"
            noise = ratios(found["usual again"], found["usual"])
            cost = ratios(found["reproducible"], found["usual"])
            rows += [
                row(f"update with {'single' if num_ranks == 1 else 'ddp'} ({where})", _ms(found["usual"]), "ms"),
                row(f"the same again: the noise ({where})", noise, ""),
                row(f"reproducible / that ({where})", cost, "", at_most=1.5, noise=noise),
            ]
    return rows


def rank_side(batch: int, rounds: int) -> None:
    """One rank; rank 0 prints seconds an update, of the slower rank."""
    import torch.distributed as dist

    from paceline.train.group import Groups, initialize

    torch.set_num_threads(1)
    device = torch.device("cpu")
    initialize(device, timeout_s=120)
    ranks = Groups([], device, ranks_per_host=int(os.environ["WORLD_SIZE"])).world
    usual = "single" if ranks.world_size == 1 else "ddp"
    contestants = {
        name: _updates(strategy, ranks, batch)
        for name, strategy in (("usual", usual), ("reproducible", "reproducible"), ("usual again", usual))
    }
    seconds = interleave(contestants, rounds=rounds, warm_up=3)
    if ranks.rank == 0:
        print(json.dumps(seconds), flush=True)
    dist.barrier()
    os._exit(0)


def _updates(name: str, ranks: Any, batch: int) -> Callable[[], float]:
    """One update, by a model and an optimizer of its own."""
    workload = registry.resolve("workloads", "lenet5-mnist")(WorkloadRequest(dataset="mnist-small"))
    torch.manual_seed(0)
    model = workload.build_model()
    settings = {"workload": workload, "ranks": ranks, "mark": lambda _: None, "autocast": False, "settings": {}}
    strategy = registry.resolve("strategies", name)(model=model, **settings)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    num_parts = NUM_MICROBATCHES if name == "reproducible" else ranks.world_size
    mine = range(num_parts)[rank_part(num_parts, rank=ranks.rank, world_size=ranks.world_size)]
    cuts = [np.arange(batch)[rank_part(batch, rank=part, world_size=num_parts)] for part in mine]
    batches = [workload.prepare(workload.batch("train", cut, seed=0, epoch=0), ranks.device) for cut in cuts]

    def once() -> float:
        ranks.barrier()
        began = time.perf_counter()
        strategy.zero_grad()
        strategy.objective(batches, num_examples=batch)
        optimizer.step()
        return float(ranks.maximum(torch.tensor([time.perf_counter() - began], dtype=torch.float64)))

    return once


def _ms(seconds: list[float]) -> list[float]:
    return [1e3 * one for one in seconds]


if __name__ == "__main__":
    if "--rank" in sys.argv:
        rank_side(int(sys.argv[2]), int(sys.argv[3]))
    else:
        hand_over(measure)
