"""torch's own L-BFGS.

Its closure returns the loss that the strategy has reduced together with the gradient, so that every rank decides from
the same bits and takes the same number of evaluations.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.nn import Parameter
from torch.optim import LBFGS, Optimizer


def build(parameters: Iterable[Parameter], hyperparameters: dict[str, Any]) -> Optimizer:
    """torch.optim.LBFGS; ``max_eval = "auto"`` is torch's default of 5/4 max_iter."""
    rest = {key: value for key, value in hyperparameters.items() if key not in ("max_eval", "line_search")}
    max_eval, line_search = hyperparameters["max_eval"], hyperparameters["line_search"]
    return LBFGS(
        parameters,
        **rest,
        max_eval=None if max_eval == "auto" else max_eval,
        line_search_fn=None if line_search == "none" else line_search,
    )
