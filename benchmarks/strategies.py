"""Strategies that reduce gradients at each update, beside DDP: time of a step, and bytes sent."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.optim import SGD

from benchmarks.outcome import Row, hand_over, last_json, row
from benchmarks.pairs import interleave, ratios
from benchmarks.programs import run, torchrun
from paceline import registry
from paceline.strategies.ranks import Ranks
from paceline.strategy_cards import strategy_card
from paceline.workloads.base import Workload, WorkloadRequest

AGAIN = "ddp again"
NAMES = ("ddp", "flat", "fp16", "bf16", "powersgd", "sign-sgd", "top-k", AGAIN)
NUM_EXAMPLES = 64  # of a step, over all ranks
NUM_STEPS = 25  # timed together


def measure(quick: bool) -> list[Row]:
    """Rows of LeNet-5 on two ranks, and the bytes on four, where an all-gather costs most."""
    two = last_json(run(torchrun(2, "benchmarks.strategies", "--rank", 2 if quick else 30)))
    four = last_json(run(torchrun(4, "benchmarks.strategies", "--rank", 0)))
    seconds, where = two["seconds"], "LeNet-5, 64 digits, 2 ranks"
    noise = ratios(seconds[AGAIN], seconds["ddp"])
    rows = [
        row(f"step of ddp ({where})", [1e3 * one for one in seconds["ddp"]], "ms"),
        row(f"ddp again / ddp: the noise ({where})", noise, ""),
        row(f"step, flat / ddp ({where})", ratios(seconds["flat"], seconds["ddp"]), "", at_most=1.0, noise=noise),
    ]
    compressed = NAMES[2:-1]
    rows += [row(f"step, {name} / ddp ({where})", ratios(seconds[name], seconds["ddp"]), "") for name in compressed]
    for found, num_ranks in ((two, 2), (four, 4)):
        sent, papers = found["bytes"], _bytes_of_papers(num_ranks, found["shapes"])
        for name in compressed:
            share = sent[name] / sent["ddp"]
            goal = math.ceil(10_000 * papers[name] / papers["ddp"]) / 10_000
            rows.append(row(f"bytes, {name} / ddp (LeNet-5, {num_ranks} ranks)", [share], "", at_most=goal, digits=4))
    return rows


def _bytes_of_papers(num_ranks: int, shapes: list[list[int]]) -> dict[str, float]:
    """What a rank sends in a step by the papers, and for the loss, where an all-reduce is a ring."""
    size = sum(math.prod(shape) for shape in shapes)
    ring, others = 2 * (num_ranks - 1) / num_ranks, num_ranks - 1
    rank = strategy_card("powersgd").settings().rank
    num_told = math.ceil(strategy_card("top-k").settings().density * size)
    thin = sum(rank * (shape[0] + math.prod(shape[1:])) if len(shape) > 1 else math.prod(shape) for shape in shapes)
    return {
        "ddp": ring * 4 * (size + 1),
        "fp16": ring * (2 * size + 4),
        "bf16": ring * (2 * size + 4),
        "powersgd": ring * 4 * (thin + 1),
        "sign-sgd": 2 * size / 8 + others * 4,
        "top-k": others * (8 * num_told + 4),
    }


def rank_side(rounds: int) -> None:
    """One rank; rank 0 prints the seconds of a step, of the slower rank, and the bytes that one sends."""
    import torch.distributed as dist

    from paceline.train.group import Groups, initialize

    torch.set_num_threads(1)
    device = torch.device("cpu")
    initialize(device, timeout_s=120)
    ranks = Groups([], device, ranks_per_host=int(os.environ["WORLD_SIZE"])).world
    workload: Workload = registry.resolve("workloads", "lenet5-mnist")(WorkloadRequest(dataset="mnist-small"))
    bytes_sent: dict[str, float] = {}
    contestants = {name: _steps(name, workload, ranks, bytes_sent) for name in NAMES}
    seconds = interleave(contestants, rounds=rounds, warm_up=1)
    if ranks.rank == 0:
        shapes = [list(parameter.shape) for parameter in workload.build_model().parameters()]
        print(json.dumps({"seconds": seconds, "bytes": bytes_sent, "shapes": shapes}), flush=True)
    dist.barrier()
    os._exit(0)


def _steps(name: str, workload: Workload, ranks: Ranks, bytes_sent: dict[str, float]) -> Callable[[], float]:
    """A contestant: some steps; seconds of one, of the slower rank."""
    torch.manual_seed(0)
    model = workload.build_model()
    registered = "ddp" if name == AGAIN else name
    strategy = registry.resolve("strategies", registered)(
        model=model,
        workload=workload,
        ranks=ranks,
        mark=lambda _: time.perf_counter(),
        autocast=False,
        settings=strategy_card(registered).settings().model_dump(),
    )
    optimizer = SGD(model.parameters(), lr=1e-4, foreach=True)
    own = np.arange(NUM_EXAMPLES)[ranks.rank :: ranks.world_size]
    batch = workload.prepare(workload.batch("train", own, seed=0, epoch=0), ranks.device)

    def steps() -> float:
        ranks.barrier()
        sent_before, began = ranks.traffic.bytes_sent, time.perf_counter()
        for _ in range(NUM_STEPS):
            strategy.zero_grad()
            strategy.objective([batch], num_examples=NUM_EXAMPLES)
            optimizer.step()
        taken = torch.tensor([time.perf_counter() - began], dtype=torch.float64)
        bytes_sent[name] = (ranks.traffic.bytes_sent - sent_before) / NUM_STEPS
        return float(ranks.maximum(taken)) / NUM_STEPS

    return steps


if __name__ == "__main__":
    if "--rank" in sys.argv:
        rank_side(int(sys.argv[2]))
    else:
        hand_over(measure)
