"""L-BFGS whose ranks stay in step: whatever decides is computed from numbers that every rank has with the same bits.

``DistributedLBFGS`` is an optimizer of torch; it needs no wrapper around the model. The algorithm is that of Nocedal
and Wright, *Numerical Optimization* (2006), chapters 3 and 7; its parts are in ``paceline.optimizers.quasi_newton``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from paceline.optimizers.quasi_newton.exchange import Alone, Exchange, Replicated, Sharded, gathered
from paceline.optimizers.quasi_newton.flat import Flat
from paceline.optimizers.quasi_newton.history import History
from paceline.optimizers.quasi_newton.objective import Closure, Objective, RankFailedError, RanksDifferError
from paceline.optimizers.quasi_newton.step import Closures, Progress, Settings, Status, Step, refuse

__all__ = ["DistributedLBFGS", "RankFailedError", "RanksDifferError"]

Mode = Literal["auto", "replicated", "sharded", "local"]

EXCHANGES: dict[str, type[Exchange]] = {"replicated": Replicated, "sharded": Sharded, "local": Alone}
NOT_PASSED_ON = ("max_eval", "line_search", "mode", "overlap")
SHARDED_FROM = 1 << 22  # parameters; below, a share of the pairs saves less than the second collective costs


class DistributedLBFGS(Optimizer):
    """L-BFGS on one process or on all ranks of a process group, with one result.

    On one process it stands in for ``torch.optim.LBFGS``. On several, every rank gives ``step`` a closure that computes
    loss and gradients of its own examples, without DDP: the optimizer adds them up. All ranks begin with the same
    parameters, and end each step with the same ones to the bit.

    Args:
        params: tensors, or groups of them, which may differ in ``lr`` and ``weight_decay``. Their learning rates set
            the metric: the first direction is ``-lr * gradient``. Decay is a penalty of half its size times the square
            of the parameters, part of the loss that the line search sees.
        lr: the first length that a line search tries.
        max_iter, max_eval: of a step; ``max_eval`` is 5/4 of ``max_iter`` if left out.
        tolerance_grad: a step ends when max |gradient| is below this share of the largest that a step began with.
        tolerance_change: a step ends when loss or parameters change by less than this share of themselves.
        history_size: number of pairs kept, at most.
        line_search_fn: ``"weak_wolfe"``, ``"strong_wolfe"`` (evaluates where torch does), ``"armijo"``, or ``"fixed"``
            (also None, as in torch): always ``lr``.
        max_line_search: evaluations in one line search, at most.
        damping: bend pairs of too little curvature (Powell) instead of leaving them out.
        mode: ``"replicated"`` (each rank keeps all pairs; one collective an evaluation), ``"sharded"`` (each keeps its
            share; two collectives an evaluation, one an iteration), ``"auto"`` (by the number of parameters), or
            ``"local"`` (closures give what is the same on every rank already; nothing is sent).
        process_group: the ranks; the default group where torch.distributed is initialized.
        buffers: of the model, such as running statistics: kept as the first evaluation of a step leaves them.

    Within a step, every evaluation draws the same random numbers: dropout is frozen. Pairs compare gradients of one
    step only, so that each step may have a batch of its own.

    Attributes: ``mode`` as chosen; ``status``, why the last step ended; ``reduces``, that it adds up over ranks itself.
    Raises: ValueError for arguments out of range.
    """

    reduces = True

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = "weak_wolfe",
        *,
        weight_decay: float = 0.0,
        max_line_search: int = 25,
        damping: bool = False,
        mode: Mode = "auto",
        process_group: dist.ProcessGroup | None = None,
        buffers: Iterable[Tensor] = (),
    ) -> None:
        self.settings = Settings(
            line_search=line_search_fn or "fixed",
            max_line_search=max_line_search,
            max_iter=max_iter,
            max_eval=max(1, max_iter * 5 // 4) if max_eval is None else max_eval,
            tolerance_grad=tolerance_grad,
            tolerance_change=tolerance_change,
            damping=damping,
        )
        refuse(history_size >= 1, f"history_size = {history_size}; give at least 1")
        refuse(mode in ("auto", *EXCHANGES), f"mode = {mode!r}; give one of auto, {', '.join(EXCHANGES)}")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self._check_groups()
        group = None if mode == "local" or not dist.is_initialized() else process_group or dist.group.WORLD
        world_size = 1 if group is None else dist.get_world_size(group)
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        self.mode: str = mode
        if mode == "auto":
            size = sum(parameter.numel() for parameter in parameters)
            self.mode = "local" if world_size == 1 else "replicated" if size < SHARDED_FROM else "sharded"
        flat = Flat(parameters, num_shares=world_size if self.mode == "sharded" else 1)
        self.exchange = EXCHANGES["local" if world_size == 1 else self.mode](group, flat.num_blocks)
        self._objective = Objective(flat, self.exchange, buffers)
        owned = self.exchange.owned.stop - self.exchange.owned.start
        self._history = History(history_size, owned, flat.block_size, dtype=flat.dtype, device=flat.device)
        self._progress = Progress()
        self._has_agreed = False

    @property
    def status(self) -> Status:
        """Why the last step ended."""
        return self._progress.status

    @property
    def num_iterations(self) -> int:
        """Since the beginning."""
        return self._progress.num_iterations

    @property
    def num_evaluations(self) -> int:
        """Of loss and gradient, since the beginning; those of an overlap are among them."""
        return self._objective.num_evaluations

    @property
    def history_bytes(self) -> int:
        """What the pairs take on this rank once all slots are used: 8 m d / W bytes of float32 where sharded."""
        return self._history.num_bytes

    def step(  # type: ignore[override] # a closure is needed, as by torch.optim.LBFGS
        self, closure: Closure, *, overlap_closure: Closure | None = None, loss_closure: Closure | None = None
    ) -> Tensor:
        """Make up to ``max_iter`` iterations; every rank calls this.

        Args:
            closure: sets gradients to those of this rank's examples and returns their mean loss, where each rank has
                equally many; or their sum and their number, (loss, count), with gradients of the sum.
            overlap_closure: the same for some of the examples only: pairs are then made from these, by two evaluations
                an iteration (multi-batch L-BFGS, Berahas, Nocedal and Takac 2016). The last of ``max_iter`` fixed
                steps then does without an evaluation of ``closure`` where it ends.
            loss_closure: as ``closure``, without gradients; Armijo's search asks it after its first trial.
        Returns: the loss over all ranks where the step began, a detached scalar. Where it is not finite, nothing was
            changed.
        Raises: on every rank alike, RankFailedError (one process alone: the closure's own error), RanksDifferError.
        """
        closures = Closures(whole=closure, overlap=overlap_closure, loss_only=loss_closure)
        with torch.no_grad():
            self._begin(closures)
            lr, objective = self.param_groups[0]["lr"], self._objective
            loss = Step(self.settings, objective, self._history, self._progress, closures, lr=lr).run()
            return torch.tensor(loss, dtype=objective.flat.dtype, device=objective.flat.device)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Only for the constructor: the vector of all parameters is laid out there.

        Raises: ValueError afterwards.
        """
        refuse(not hasattr(self, "_objective"), "a group came after the others; give all groups when building")
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Settings of groups, and the pairs of the blocks that this rank owns."""
        flat = self._objective.flat
        state = self._history.state() | {
            "size": flat.size,
            "start": self.exchange.owned.start * flat.block_size,
            "progress": asdict(self._progress),
            "num_evaluations": self.num_evaluations,
        }
        return {"state": state, "param_groups": super().state_dict()["param_groups"]}

    def gather_state_dict(self) -> dict[str, Any]:
        """The same with the pairs of all blocks, whatever the mode; every rank calls this, and has it."""
        whole = self.state_dict()
        if self.exchange.shares:
            rows = whole["state"]["rows"]
            parts = gathered(rows, self.exchange.group).view(self.exchange.world_size, *rows.shape)
            whole["state"] |= {"rows": torch.cat(list(parts), dim=1), "start": 0}
        return whole

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state, of this number of ranks or gathered at any other.

        Raises: ValueError if it is of another model, or lacks blocks that this rank owns.
        """
        state, flat, owned = state_dict["state"], self._objective.flat, self.exchange.owned
        if state["size"] != flat.size:
            raise ValueError(f"the state is of {state['size']} parameters, and the optimizer has {flat.size}")
        first, last = owned.start * flat.block_size, min(owned.stop * flat.block_size, flat.size)
        start, stop = state["start"], state["start"] + state["rows"].shape[1]
        last = max(first, last)  # a rank may own nothing but padding
        if first < last and (start > first or stop < last):
            raise ValueError(
                f"the state holds elements {start} to {stop}, and this rank needs {first} to {last}; load what "
                "gather_state_dict gave"
            )
        super().load_state_dict({"state": {}, "param_groups": state_dict["param_groups"]})
        self._check_groups()
        own = state["rows"][:, first - start : last - start].to(flat.device, flat.dtype)
        padding = (owned.stop - owned.start) * flat.block_size - own.shape[1]
        self._history.restore(torch.nn.functional.pad(own, (0, padding)), state["slots"], state["sy"], state["yy"])
        self._progress = Progress(**state["progress"])
        self._objective.num_evaluations = state["num_evaluations"]

    def _begin(self, closures: Closures) -> None:
        """Take up parameters and groups, once ranks are known to have the same."""
        self._check_groups()
        if not self._has_agreed:
            groups = [(len(group["params"]), group["lr"], group["weight_decay"]) for group in self.param_groups]
            given = (closures.overlap is not None, closures.loss_only is not None)
            self._objective.agree(f"{self.settings} {self.mode} {self._history.size} {groups} {given}")
            self._has_agreed = True
        if self._objective.begin(self.param_groups):
            self._history.clear()

    def _check_groups(self) -> None:
        for number, group in enumerate(self.param_groups):
            lr, decay = group["lr"], group["weight_decay"]
            refuse(bool(group["params"]), f"group {number} has no parameters; leave it out")
            refuse(0 < lr < math.inf, f"lr = {lr} of group {number}; give a number above 0")
            refuse(0 <= decay < math.inf, f"weight_decay = {decay} of group {number}; give 0 or more")


class WithOverlap(DistributedLBFGS):
    """One whose pairs are made of the first ``overlap`` of each batch, for closures that take such a share."""

    overlap = 0.0

    def step(self, closure: Callable[..., Any]) -> Tensor:  # type: ignore[override]
        """See the base class; ``closure(share)`` evaluates that share of the batch."""
        return super().step(closure, overlap_closure=partial(closure, share=self.overlap))


def build(
    parameters: Iterable[Tensor],
    hyperparameters: dict[str, Any],
    *,
    model: nn.Module,
    strategy: Any,  # noqa: ANN401 - a Strategy, which lies beside this package
) -> Optimizer:
    """DistributedLBFGS over the ranks of a strategy, unless that adds up over them itself."""
    rest = {key: value for key, value in hyperparameters.items() if key not in NOT_PASSED_ON}
    max_eval, overlap = hyperparameters["max_eval"], hyperparameters["overlap"]
    optimizer = (WithOverlap if overlap else DistributedLBFGS)(
        parameters,
        **rest,
        max_eval=None if max_eval == "auto" else max_eval,
        line_search_fn=hyperparameters["line_search"],
        mode="local" if strategy.reduces else hyperparameters["mode"],
        process_group=None if strategy.reduces else strategy.ranks.group,
        buffers=model.buffers(),
    )
    if isinstance(optimizer, WithOverlap):
        optimizer.overlap = overlap
    return optimizer
