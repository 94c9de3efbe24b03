"""DistributedLBFGS beside torch's L-BFGS: the direction alone, whole steps on one rank, and on two."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.outcome import Row, hand_over, last_json, row
from benchmarks.pairs import interleave, ratios
from benchmarks.programs import run, torchrun
from paceline import registry
from paceline.optimizers.lbfgs import DistributedLBFGS
from paceline.optimizers.quasi_newton.flat import Flat
from paceline.optimizers.quasi_newton.history import History
from paceline.workloads.base import WorkloadRequest

DIRECTIONS = ((1_000_000, 10, 1.3), (1_000_000, 50, 1.4), (10_000_000, 10, 2.0))
MAX_ITER = 20
HISTORY_SIZE = 10


def measure(quick: bool) -> list[Row]:
    """Rows of all three, on one thread."""
    torch.set_num_threads(1)
    rows: list[Row] = []
    for size, num_pairs, goal in DIRECTIONS:
        rows += _direction(size // (100 if quick else 1), num_pairs, goal, rounds=3 if quick else 15)
    for num_examples in (64, 500):
        rows += _steps(num_examples, rounds=3 if quick else 30)
    return rows + _ranks(rounds=2 if quick else 15)


def _direction(size: int, num_pairs: int, goal: float, *, rounds: int) -> list[Row]:
    """-H g, from a gradient and a full history."""
    flat = Flat([torch.empty(size, requires_grad=True)], num_shares=1)
    torch.manual_seed(0)
    gradient = torch.randn(flat.num_blocks, flat.block_size)
    history = History(num_pairs, flat.num_blocks, flat.block_size, dtype=flat.dtype, device=flat.device)
    pairs: list[tuple[Tensor, Tensor]] = []
    for _ in range(num_pairs):
        s = torch.randn_like(gradient)
        y = s + 0.1 * torch.randn_like(gradient)
        numbers = {"sy": float((s * y).sum()), "yy": float((y * y).sum())}
        history.append(s, 1.0, y, **numbers, with_y=history.by_age(history.products(y).sum(0)))
        pairs.append((s.flatten(), y.flatten()))
    of_torch = _TwoLoops(pairs)

    def ours() -> Tensor:
        products = history.products(gradient).sum(0)
        return history.combine(*history.coefficients(history.by_age(products)), gradient)

    difference = (ours().flatten() - of_torch(gradient.flatten())).norm() / gradient.norm()
    if not difference < 1e-3:  # torch's loses up to 1e-4 in float32
        raise RuntimeError(f"the two directions differ by {difference:.1e}")
    seconds = interleave(
        {"ours": lambda: _timed(ours), "torch's": lambda: _timed(lambda: of_torch(gradient.flatten()))}, rounds=rounds
    )
    where = f"{size:,} parameters, {num_pairs} pairs"
    return [
        row(f"direction ({where})", [1e3 * one for one in seconds["ours"]], "ms"),
        row(f"torch's two loops / direction ({where})", ratios(seconds["torch's"], seconds["ours"]), "", at_least=goal),
    ]


class _TwoLoops:
    """The direction as ``torch.optim.LBFGS`` computes it."""

    def __init__(self, pairs: list[tuple[Tensor, Tensor]]) -> None:
        self.pairs = pairs
        self.inverses = [1.0 / y.dot(s) for s, y in pairs]
        s, y = pairs[-1]
        self.scale = y.dot(s) / y.dot(y)

    def __call__(self, gradient: Tensor) -> Tensor:
        weights: list[Any] = [None] * len(self.pairs)
        q = gradient.neg()
        for number in reversed(range(len(self.pairs))):
            s, y = self.pairs[number]
            weights[number] = s.dot(q) * self.inverses[number]
            q.add_(y, alpha=-weights[number])
        r = torch.mul(q, self.scale)
        for number, (s, y) in enumerate(self.pairs):
            r.add_(s, alpha=weights[number] - y.dot(r) * self.inverses[number])
        return r


class _Digits:
    """LeNet-5 on digits; every step begins anew from the same parameters."""

    def __init__(self, part: slice) -> None:
        workload = registry.resolve("workloads", "lenet5-mnist")(WorkloadRequest(dataset="mnist-small"))
        torch.manual_seed(0)
        self.model: nn.Module = workload.build_model()
        self._workload = workload
        raw = workload.batch("train", np.arange(part.start, part.stop), seed=0, epoch=0)
        self._batch = workload.prepare(raw, torch.device("cpu"))
        self._start = [parameter.detach().clone() for parameter in self.model.parameters()]
        self.num_evaluations = 0

    def loss(self, model: nn.Module) -> Tensor:
        """The mean, with gradients."""
        self.num_evaluations += 1
        for parameter in self.model.parameters():
            parameter.grad = None
        loss = self._workload.loss_sum(model(self._batch.inputs), self._batch) / len(self._batch.targets)
        loss.backward()
        return loss.detach()

    def step(self, optimizer: torch.optim.Optimizer, closure: Callable[[], Tensor]) -> Callable[[], float]:
        """A contestant: one step from the start."""

        def once() -> float:
            with torch.no_grad():
                torch._foreach_copy_(list(self.model.parameters()), self._start)
            return _timed(lambda: optimizer.step(closure))

        return once


def _timed(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def _steps(num_examples: int, *, rounds: int) -> list[Row]:
    """Steps on one rank, each of a new optimizer."""
    contestants, counted = {}, {}
    for name, build in (("torch", torch.optim.LBFGS), ("ours", DistributedLBFGS), ("torch again", torch.optim.LBFGS)):
        digits = _Digits(slice(0, num_examples))
        contestants[name] = _fresh_step(digits, build)
        counted[name] = digits
    seconds = interleave(contestants, rounds=rounds)
    evaluations = {name: digits.num_evaluations for name, digits in counted.items()}
    if len(set(evaluations.values())) != 1:
        raise RuntimeError(f"unequal numbers of evaluations: {evaluations}")
    where = f"LeNet-5, {num_examples} digits, {evaluations['ours'] // (rounds + 1)} evaluations"
    noise = ratios(seconds["torch again"], seconds["torch"])
    return [
        row(f"step of torch.optim.LBFGS ({where})", [1e3 * one for one in seconds["torch"]], "ms"),
        row(f"torch again / torch: the noise ({where})", noise, ""),
        row(f"step / torch's ({where})", ratios(seconds["ours"], seconds["torch"]), "", at_most=1.0, noise=noise),
    ]


def _fresh_step(digits: _Digits, build: Any) -> Callable[[], float]:
    """One step of a new optimizer."""

    def once() -> float:
        optimizer = build(
            digits.model.parameters(), max_iter=MAX_ITER, history_size=HISTORY_SIZE, line_search_fn="strong_wolfe"
        )
        return digits.step(optimizer, lambda: digits.loss(digits.model))()

    return once


def _ranks(*, rounds: int) -> list[Row]:
    two = last_json(run(torchrun(2, "benchmarks.lbfgs", "--rank", rounds)))
    four = last_json(run(torchrun(4, "benchmarks.lbfgs", "--rank", 0)))
    seconds, per_evaluation = two["seconds"], two["collectives_per_evaluation"]
    where = "LeNet-5, 64 digits, 2 ranks"
    noise = ratios(seconds["DDP again"], seconds["DDP"])
    rows = [
        row(f"evaluation of DDP, torch's L-BFGS and an all-reduce of the loss ({where})",
            [1e3 * one for one in seconds["DDP"]], "ms"),
        row(f"the same again: the noise ({where})", noise, ""),
    ]  # fmt: skip
    for mode in ("replicated", "sharded"):
        rows.append(row(f"evaluation, {mode} / with DDP ({where})", ratios(seconds[mode], seconds["DDP"]), ""))
    rows += [
        row(f"collectives an evaluation, replicated ({where})", [per_evaluation["replicated"]], "", at_most=1.0),
        row(f"collectives an evaluation, with DDP ({where})", [per_evaluation["DDP"]], ""),
        row(f"history of a rank, sharded / replicated ({where[:-7]}4 ranks)", [four["share"]], "", at_most=0.255),
    ]
    return rows


def rank_side(rounds: int) -> None:
    """One rank; rank 0 prints seconds an evaluation, of the slower rank, and what else was counted."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from paceline.train.group import Groups, initialize

    torch.set_num_threads(1)
    device = torch.device("cpu")
    initialize(device, timeout_s=120)
    ranks = Groups([], device, ranks_per_host=int(os.environ["WORLD_SIZE"])).world
    part = slice(ranks.rank * 64 // ranks.world_size, (ranks.rank + 1) * 64 // ranks.world_size)
    settings = {"max_iter": MAX_ITER, "history_size": HISTORY_SIZE, "line_search_fn": "strong_wolfe"}
    contestants: dict[str, Callable[[], float]] = {}
    per_evaluation: dict[str, float] = {}
    history_bytes: dict[str, int] = {}

    def together(name: str, digits: _Digits, step: Callable[[], float], sent: Callable[[], int]) -> None:
        def once() -> float:
            dist.barrier()
            before, sent_before = digits.num_evaluations, sent()
            seconds = float(ranks.maximum(torch.tensor([step()], dtype=torch.float64)))
            num_evaluations = digits.num_evaluations - before
            per_evaluation[name] = (sent() - sent_before) / num_evaluations
            return seconds / num_evaluations

        contestants[name] = once

    for mode in ("replicated", "sharded"):
        digits = _Digits(part)
        own = DistributedLBFGS(digits.model.parameters(), mode=mode, **settings)
        history_bytes[mode] = own.history_bytes
        step = digits.step(own, lambda digits=digits: digits.loss(digits.model))
        together(mode, digits, step, lambda own=own: own.exchange.num_collectives)
    for name in ("DDP", "DDP again"):
        digits = _Digits(part)
        wrapped = DistributedDataParallel(digits.model)
        theirs = torch.optim.LBFGS(digits.model.parameters(), **settings)

        def closure(digits=digits, wrapped=wrapped) -> Tensor:
            return ranks.sum(digits.loss(wrapped)) / ranks.world_size

        together(name, digits, digits.step(theirs, closure), lambda digits=digits: 2 * digits.num_evaluations)
    seconds = interleave(contestants, rounds=rounds, warm_up=1)
    if ranks.rank == 0:
        share = history_bytes["sharded"] / history_bytes["replicated"]
        found = {"seconds": seconds, "collectives_per_evaluation": per_evaluation, "share": share}
        print(json.dumps(found), flush=True)
    dist.barrier()
    os._exit(0)


if __name__ == "__main__":
    if "--rank" in sys.argv:
        rank_side(int(sys.argv[2]))
    else:
        hand_over(measure)
