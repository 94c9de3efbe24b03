"""torch's own L-BFGS.

Its closure returns the loss that the strategy has reduced together with the gradient, so that every rank decides from
the same bits and takes the same number of evaluations.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.nn import Parameter
from torch.optim import LBFGS, Optimizer


class WithAllReduce(LBFGS):
    """The workaround for a loss that was not reduced: an all-reduce of it in the closure, at every evaluation."""

    def __init__(self, parameters: Iterable[Parameter], *, ranks: Any, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(parameters, **settings)
        self._ranks = ranks

    def step(self, closure: Any) -> Any:  # type: ignore[override] # noqa: ANN401 - torch's has no types
        """See torch.optim.LBFGS."""

        def with_all_reduce() -> Any:  # noqa: ANN401
            loss = closure()
            mean = self._ranks.sum(loss.clone()) / self._ranks.world_size
            if self._ranks.world_size > 1:
                self._ranks.traffic.count_all_reduce(loss.nbytes, self._ranks.world_size)
            return mean

        return super().step(with_all_reduce)  # type: ignore[no-untyped-call]


def build(parameters: Iterable[Parameter], hyperparameters: dict[str, Any]) -> Optimizer:
    """torch.optim.LBFGS; ``max_eval = "auto"`` is torch's default of 5/4 max_iter."""
    return LBFGS(parameters, **_settings(hyperparameters))


def build_with_all_reduce(
    parameters: Iterable[Parameter],
    hyperparameters: dict[str, Any],
    *,
    strategy: Any,  # noqa: ANN401 - a Strategy, which lies beside this package
) -> Optimizer:
    """The same with the workaround, which on one rank has nothing to do."""
    return WithAllReduce(parameters, ranks=strategy.ranks, **_settings(hyperparameters))


def _settings(hyperparameters: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in hyperparameters.items() if key not in ("max_eval", "line_search")}
    max_eval, line_search = hyperparameters["max_eval"], hyperparameters["line_search"]
    return rest | {
        "max_eval": None if max_eval == "auto" else max_eval,
        "line_search_fn": None if line_search == "none" else line_search,
    }
