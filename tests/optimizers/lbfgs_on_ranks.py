"""On ranks: training by DistributedLBFGS, and what it says of itself."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from optimizers.problems import Digits, with_gradient
from paceline.data.order import rank_part
from paceline.optimizers.lbfgs import DistributedLBFGS, RankFailedError, RanksDifferError


def build(ranks: Any, model: nn.Module | list[Tensor], **settings: Any) -> DistributedLBFGS:
    """On the ranks of a trial; one of them alone is no group."""
    if ranks.world_size == 1:
        settings["mode"] = "local"
    parameters = model.parameters() if isinstance(model, nn.Module) else model
    return DistributedLBFGS(parameters, process_group=ranks.group, **settings)


def own_part(ranks: Any, num_examples: int) -> slice:
    """Unequal where they cannot be equal: the last rank has the most."""
    cut = [0, *(num_examples * (rank + 1) // (ranks.world_size + 1) for rank in range(ranks.world_size - 1))]
    return slice(cut[ranks.rank], [*cut, num_examples][ranks.rank + 1])


def sums(digits: Digits, part: slice) -> Callable[[], tuple[Tensor, int]]:
    """A closure of the sum of losses over a part, and the number of its examples."""
    closure = with_gradient(digits.model.parameters(), lambda: digits.loss_sum(part))
    return lambda: (closure(), len(digits.batch.targets[part]))


def as_double(digits: Digits) -> Digits:
    """The same in float64."""
    digits.model.double()
    digits.batch = type(digits.batch)(digits.batch.inputs.double(), digits.batch.targets)
    return digits


def parameters_of(model: nn.Module) -> bytes:
    """All bits."""
    return b"".join(parameter.detach().numpy().tobytes() for parameter in model.parameters())


def train(
    ranks: Any,
    *,
    mode: str = "replicated",
    workload: str = "logreg-mnist",
    num_examples: int = 301,
    num_steps: int = 10,
    double: bool = False,
    threads: list[int] | None = None,
    with_overlap: bool = False,
    means: bool = False,
    save: str = "",
    resume: str = "",
    **settings: Any,
) -> dict[str, Any]:
    """Train on this rank's examples; what came out, bit for bit, and what it took.

    With ``threads``, each rank has its own number; with ``means``, closures give means over equal parts.
    """
    torch.set_num_threads(threads[ranks.rank] if threads else 1)
    digits = Digits(workload, num_examples=num_examples)
    if double:
        as_double(digits)
    part = own_part(ranks, num_examples)
    if means:
        part = rank_part(num_examples, rank=ranks.rank, world_size=ranks.world_size)
    optimizer = build(ranks, digits.model, mode=mode, **settings)
    if resume:
        saved = torch.load(resume, weights_only=True)
        digits.model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    whole: Any = digits.mean(part) if means else sums(digits, part)
    more: dict[str, Any] = {}
    alone: list[float] = []
    if with_overlap:
        some = slice(part.start, part.start + len(range(part.start, part.stop)) // 2 + ranks.rank)
        more = {"overlap_closure": sums(digits, some), "loss_closure": loss_sums(digits, part, alone)}
    losses = [float(optimizer.step(whole, **more)) for _ in range(num_steps)]
    if save:
        state = optimizer.gather_state_dict()
        if ranks.rank == 0:
            torch.save({"model": digits.model.state_dict(), "optimizer": state}, save)
        losses += [float(optimizer.step(whole, **more)) for _ in range(3)]
    torch.set_num_threads(1)
    return {
        "losses": losses,
        "bits": parameters_of(digits.model).hex() if workload == "logreg-mnist" else "",
        "num_evaluations": optimizer.num_evaluations,
        "num_iterations": optimizer.num_iterations,
        "status": optimizer.status,
        "num_losses_alone": len(alone),
        "mode": optimizer.mode,
        "history_bytes": optimizer.history_bytes,
        "num_parameters": sum(parameter.numel() for parameter in digits.model.parameters()),
    }


def loss_sums(digits: Digits, part: slice, told: list[float]) -> Callable[[], tuple[float, int]]:
    """A closure of the loss alone, which adds to ``told``."""

    def closure() -> tuple[float, int]:
        with torch.no_grad():
            told.append(float(digits.loss_sum(part)))
        return told[-1], len(digits.batch.targets[part])

    return closure


def many_numbers(ranks: Any, *, mode: str, size: int, num_steps: int, threads: list[int]) -> dict[str, Any]:
    """A badly scaled function of many numbers, whose kernels split over threads; this rank's share of it."""
    torch.set_num_threads(threads[ranks.rank])
    x = torch.linspace(-1, 1, size, requires_grad=True)
    scales = torch.logspace(-4, 2, size) * (1 + 0.1 * ranks.rank)
    optimizer = build(ranks, [x], mode=mode, max_iter=20, history_size=6, tolerance_change=0.0)
    closure = with_gradient([x], lambda: (scales * (x - 0.1) ** 2).sum() + (x**4).sum())
    for _ in range(num_steps):
        optimizer.step(closure)
    torch.set_num_threads(1)
    return {
        "bits": zlib.crc32(x.detach().numpy().tobytes()),
        "num_iterations": optimizer.num_iterations,
        "num_evaluations": optimizer.num_evaluations,
    }


def traffic(ranks: Any, *, mode: str, num_steps: int) -> dict[str, Any]:
    """Collectives that gloo saw, beside those that the optimizer counted."""
    digits = Digits(num_examples=120)
    optimizer = build(ranks, digits.model, mode=mode, max_iter=4)
    closure = sums(digits, own_part(ranks, 120))
    optimizer.step(closure)  # ranks agree on the model only once
    before = optimizer.num_evaluations, optimizer.num_iterations, optimizer.exchange.num_collectives
    with torch.profiler.profile() if ranks.world_size > 1 else nullcontext() as profile:
        for _ in range(num_steps):
            optimizer.step(closure)
    after = optimizer.num_evaluations, optimizer.num_iterations, optimizer.exchange.num_collectives
    seen = {event.key: event.count for event in profile.key_averages() if event.key.startswith("gloo:")}
    evaluations, iterations, counted = (late - early for early, late in zip(before, after, strict=True))
    return {"seen": seen, "evaluations": evaluations, "iterations": iterations, "counted": counted}


def resume_in_place(ranks: Any, *, mode: str, folder: str) -> dict[str, Any]:
    """Losses of steps after a rank loaded its own state, beside those without a pause."""
    digits = Digits(num_examples=201)
    settings = {"mode": mode, "max_iter": 4, "history_size": 6, "weight_decay": 1e-3}
    optimizer = build(ranks, digits.model, **settings)
    closure = sums(digits, own_part(ranks, 201))
    for _ in range(3):
        optimizer.step(closure)
    path = Path(folder) / f"{ranks.rank}.pt"
    torch.save([digits.model.state_dict(), optimizer.state_dict()], path)
    straight = [float(optimizer.step(closure)) for _ in range(3)]
    bits = parameters_of(digits.model).hex()
    model, state = torch.load(path, weights_only=True)
    digits.model.load_state_dict(model)
    again = build(ranks, digits.model, **settings)
    again.load_state_dict(state)
    resumed = [float(again.step(closure)) for _ in range(3)]
    return {"straight": straight, "resumed": resumed, "same_bits": bits == parameters_of(digits.model).hex()}


def load_a_share(ranks: Any, *, folder: str) -> str:
    """What a rank is told that loads the state of another one."""
    digits = Digits(num_examples=60)
    optimizer = build(ranks, digits.model, mode="sharded", max_iter=3)
    optimizer.step(sums(digits, own_part(ranks, 60)))
    torch.save(optimizer.state_dict(), Path(folder) / f"{ranks.rank}.pt")
    ranks.sum(torch.zeros(1))
    other = torch.load(Path(folder) / f"{(ranks.rank + 1) % ranks.world_size}.pt", weights_only=True)
    try:
        optimizer.load_state_dict(other)
    except ValueError as error:
        return str(error)
    return ""


def fail(ranks: Any, *, mode: str, fault: str, at_evaluation: int = 3) -> dict[str, Any]:
    """Rank 1 is not as the others, from the start or at one evaluation; what every rank is told, and how it goes on."""
    is_odd = ranks.rank == 1
    digits = Digits(num_examples=120)
    settings: dict[str, Any] = {"max_iter": 5}
    if is_odd and fault == "other model":
        digits.model.linear = nn.Linear(784, 5)
    if is_odd and fault == "other order":
        digits.model = nn.ParameterList(reversed(list(digits.model.parameters())))
    if is_odd and fault == "other settings":
        settings["max_line_search"] = 24
    if is_odd and fault == "other lr":
        settings["lr"] = 0.5
    if is_odd and fault == "other start":
        with torch.no_grad():
            next(digits.model.parameters())[0, 0] += 1e-7
    optimizer = build(ranks, digits.model, mode=mode, **settings)
    good = sums(digits, own_part(ranks, 120))
    num_calls = 0

    def closure() -> Any:
        nonlocal num_calls
        num_calls += 1
        if not (is_odd and num_calls == at_evaluation):
            return good()
        return spoil(fault, good, digits)

    more = {"overlap_closure": good} if is_odd and fault == "another closure" else {}
    answer: dict[str, Any] = {"kind": "", "said": ""}
    try:
        optimizer.step(closure, **more)
    except (RankFailedError, RanksDifferError) as error:
        answer = {"kind": type(error).__name__, "said": str(error)}
    answer |= {"status": optimizer.status, "is_finite": all(map(_is_finite, digits.model.parameters()))}
    if fault not in ("other model", "other order"):
        answer["bits"] = parameters_of(digits.model).hex()
    if fault in ("raises", "no gradient", "nan loss", "nan gradient", "inf loss"):
        optimizer.step(good)
        answer["bits_later"], answer["status_later"] = parameters_of(digits.model).hex(), optimizer.status
    return answer


def _is_finite(parameter: Tensor) -> bool:
    return bool(torch.isfinite(parameter).all())


def spoil(fault: str, good: Callable[[], tuple[Tensor, int]], digits: Digits) -> Any:
    """One evaluation that goes wrong on this rank."""
    loss, count = good()
    first = next(digits.model.parameters())
    match fault:
        case "raises":
            raise ZeroDivisionError("the data ran out")
        case "no gradient":
            first.grad = None
        case "nan loss":
            return loss * math.nan, count
        case "inf loss":
            return loss * math.inf, count
        case "nan gradient":
            assert first.grad is not None
            first.grad[0, 0] = math.nan
        case "mean among sums":
            return loss / count
    return loss, count


def of_ddp(ranks: Any, *, num_evaluations: int, num_examples: int) -> dict[str, Any]:
    """Stock DDP with torch's L-BFGS, until each rank has made so many evaluations, hence as many collectives.

    Returns: evaluations of each step, the status so to say, and the parameters.
    """
    digits = Digits(num_examples=num_examples)
    part = own_part(ranks, num_examples)
    wrapped = nn.parallel.DistributedDataParallel(digits.model, process_group=ranks.group)
    optimizer = torch.optim.LBFGS(wrapped.parameters(), max_iter=10, line_search_fn="strong_wolfe")
    batch = type(digits.batch)(*(one[part] for one in digits.batch))
    scale = ranks.world_size / num_examples  # DDP takes the mean over ranks of gradients

    class EnoughError(Exception):
        pass

    evaluations: list[int] = []

    def closure() -> Tensor:
        if sum(evaluations) == num_evaluations:
            raise EnoughError
        evaluations[-1] += 1
        optimizer.zero_grad()
        loss = digits.workload.loss_sum(wrapped(batch.inputs), batch) * scale
        loss.backward()
        return loss.detach()

    try:
        while True:
            evaluations.append(0)
            optimizer.step(closure)
    except EnoughError:
        return {
            "evaluations": evaluations,
            "parameters": torch.cat([one.detach().flatten() for one in digits.model.parameters()]).tolist(),
        }
