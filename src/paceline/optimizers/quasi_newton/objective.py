"""The function that is minimized: loss and gradient over all ranks at a place, from each rank's closure.

A place is a vector of parameters, each divided by the root of its group's relative learning rate: a metric in which one
step length suits all groups.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from struct import pack
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from paceline.optimizers.quasi_newton.exchange import Exchange, Numbers, agree
from paceline.optimizers.quasi_newton.flat import Flat, bits_digest, block_dots

Loss = Tensor | float
Closure = Callable[[], Loss | tuple[Loss, float]]
_MEAN = -1.0  # instead of a count, where the closure gave a mean


class RanksDifferError(RuntimeError):
    """Ranks do not hold the same model, or have taken different decisions."""


class RankFailedError(RuntimeError):
    """On some rank a closure raised, or left a parameter without a gradient."""


class Objective:
    """What closures compute, added up over ranks. ``num_evaluations`` counts those with gradients."""

    def __init__(self, flat: Flat, exchange: Exchange, buffers: Iterable[Tensor]) -> None:
        self.flat, self.exchange = flat, exchange
        self.num_evaluations = 0
        self._frozen = _Frozen(list(buffers), flat.device)
        self.place = flat.zeros()
        self._scales: list[float] = []
        self._decay: Tensor | None = None
        self._decisions = 0

    def agree(self, settings: str) -> None:
        """Make sure that ranks have the same model and settings.

        Raises: RanksDifferError on all of them.
        """
        shapes = [tuple(parameter.shape) for parameter in self.flat.parameters]
        described = f"{shapes} {[str(parameter.dtype) for parameter in self.flat.parameters]}"
        what = (self.flat.size, zlib.crc32(described.encode()), zlib.crc32(settings.encode()))
        if others := agree(self.exchange, what, self.flat.device):
            raise RanksDifferError(
                f"{_ranks(others)}: another model or other settings than rank 0; build the same on every rank"
            )

    def begin(self, groups: Sequence[dict[str, Any]]) -> bool:
        """Take up the parameters, as ``place``, and the groups' settings at the beginning of a step.

        Returns: whether the metric is another than at the step before.
        """
        scales = [math.sqrt(group["lr"] / groups[0]["lr"]) for group in groups for _ in group["params"]]
        is_new = bool(self._scales) and scales != self._scales
        self._scales = scales
        self._is_scaled = any(scale != 1 for scale in scales)
        decays = [group["weight_decay"] for group in groups for _ in group["params"]]
        self._decay = self._decays(decays) if any(decays) else None
        self._read()
        self._frozen.begin()
        return is_new

    def loss_at(self, place: Tensor, closure: Closure) -> float:
        """The loss alone."""
        total, _ = self._evaluate(place, closure, with_gradient=False)
        return total

    def at(self, place: Tensor, closure: Closure) -> tuple[float, Tensor]:
        """Loss, and the gradient of the blocks that this rank owns."""
        self.num_evaluations += 1
        loss, gradient = self._evaluate(place, closure, with_gradient=True)
        assert gradient is not None
        return loss, gradient

    def write(self, place: Tensor) -> None:
        """Give the parameters the values of a place, which nobody may change after this."""
        self.place = place
        values = self.flat.views(place)
        if self._is_scaled:
            values = list(torch._foreach_mul(values, self._scales))
        torch._foreach_copy_(self.flat.parameters, values)

    def decide(self, *numbers: float) -> None:
        """Let what was decided ride along with the next evaluation, to be compared over ranks."""
        self._decisions = zlib.crc32(pack(f"{len(numbers)}d", *numbers), self._decisions)

    def _evaluate(self, place: Tensor, closure: Closure, *, with_gradient: bool) -> tuple[float, Tensor | None]:
        self.write(place)
        with self._frozen:
            gradient = self.flat.blank() if with_gradient else place[:, :0]
            loss, count, error = self._call(closure, gradient if with_gradient else None)
        digest = bits_digest(place) if self.exchange.world_size > 1 else 0
        told_by_this = [loss, count, float(error is not None), float(digest), float(self._decisions)]
        total, told = self.exchange.sum(gradient, told_by_this)
        if told[:, 2].any():
            self._raise_failure(error)
        if (told[:, 3:] != told[0, 3:]).any():
            others = [rank for rank, row in enumerate(told) if (row[3:] != told[0, 3:]).any()]
            raise RanksDifferError(
                f"{_ranks(others)}: other parameters, or other decisions, than rank 0. Start from the same parameters, "
                "and use the same number of threads, library versions and processors on all ranks"
            )
        whole = self._weight(told)
        loss = float(told[:, 0].sum()) / whole
        if whole != 1:
            total /= whole
        if self._decay is not None:
            pulled = self._decay * place
            loss += 0.5 * float(block_dots(place, pulled).sum())
            if with_gradient:
                total += pulled[self.exchange.owned]
        self.decide(loss)
        return loss, total if with_gradient else None

    def _call(self, closure: Closure, gradient: Tensor | None) -> tuple[float, float, Exception | None]:
        """Loss, count and error of this rank's closure; its gradients go to ``gradient``, if any."""
        try:
            with torch.enable_grad():
                value = closure()
            loss, count = _loss_and_count(value)
            if gradient is not None:
                self._take_gradients(gradient)
            return loss, count, None
        except Exception as error:  # the other ranks wait: it is raised again once they know
            return 0.0, _MEAN, error

    def _take_gradients(self, out: Tensor) -> None:
        gradients: list[Tensor] = []
        for number, parameter in enumerate(self.flat.parameters):
            if parameter.grad is None:
                raise ValueError(f"parameter {number} got no gradient; leave it out, or let the loss depend on it")
            if parameter.grad.layout != torch.strided:
                raise ValueError(f"parameter {number} got a sparse gradient; use sparse=False")
            gradients.append(parameter.grad)
        views = self.flat.views(out)
        torch._foreach_copy_(views, gradients)
        if self._is_scaled:
            torch._foreach_mul_(views, self._scales)

    def _weight(self, told: Numbers) -> float:
        """What sums over ranks are divided by."""
        counts = told[:, 1]
        if (counts == _MEAN).all():
            return float(len(told))
        if (counts == _MEAN).any() or not counts.sum() > 0:
            said = ", ".join("a mean" if count == _MEAN else f"a sum over {count:g}" for count in counts)
            raise RankFailedError(
                f"closures gave {said} (ranks 0, 1, ...); return (sum, count) on every rank, with at least one example "
                "in all, or the mean on every rank"
            )
        return float(counts.sum())

    def _raise_failure(self, error: Exception | None) -> None:
        said: list[Any] = [None] * self.exchange.world_size
        own = None if error is None else f"rank {self.exchange.rank}: {type(error).__name__}: {error}"
        if self.exchange.world_size == 1:
            assert error is not None
            raise error
        dist.all_gather_object(said, own, group=self.exchange.group)
        raise RankFailedError("; ".join(filter(None, said))) from error

    def _read(self) -> None:
        """The parameters as a place; what was rounded off on their way back is kept while nobody changed them."""
        views = self.flat.views(self.place)
        for view, parameter, scale in zip(views, self.flat.parameters, self._scales, strict=True):
            is_rounded = parameter.dtype != view.dtype or scale != 1
            if not (is_rounded and torch.equal((view * scale).to(parameter.dtype), parameter)):
                view.copy_(parameter).div_(scale)

    def _decays(self, decays: Sequence[float]) -> Tensor:
        out = self.flat.zeros()
        for view, decay, scale in zip(self.flat.views(out), decays, self._scales, strict=True):
            view.fill_(decay * scale * scale)
        return out


def _loss_and_count(value: Loss | tuple[Loss, float]) -> tuple[float, float]:
    """What a closure returned."""
    match value:
        case (loss, count) if 0 <= float(count) < math.inf:
            return float(loss), float(count)
        case float() | int():
            return float(value), _MEAN
        case Tensor() if value.numel() == 1:
            return float(value), _MEAN
    raise ValueError(f"the closure returned {value!r}; return the mean loss, or (sum of losses, number of examples)")


class _Frozen:
    """Every evaluation of a step draws the same random numbers, and leaves buffers as the first one left them."""

    def __init__(self, buffers: list[Tensor], device: torch.device) -> None:
        self._buffers, self._device = buffers, device
        self.begin()

    def begin(self) -> None:
        """A new step."""
        self._generator: Tensor | None = None
        self._on_device: Tensor | None = None
        self._kept: list[Tensor] | None = None

    def __enter__(self) -> None:
        if self._generator is None:
            self._generator = torch.get_rng_state()
            self._on_device = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
            return
        torch.set_rng_state(self._generator)
        if self._on_device is not None:
            torch.cuda.set_rng_state(self._on_device, self._device)

    def __exit__(self, *_: object) -> None:
        if self._kept is None:
            self._kept = [buffer.clone() for buffer in self._buffers]
        elif self._buffers:
            torch._foreach_copy_(self._buffers, self._kept)


def _ranks(numbers: Sequence[int]) -> str:
    return f"rank{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
