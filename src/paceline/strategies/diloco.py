"""DiLoCo: local training whose meetings are steps of an outer optimizer with Nesterov momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import SGD

from paceline.strategies.local_sgd import LocalSgd
from paceline.strategies.vector import joined


class Diloco(LocalSgd):
    """Every ``period`` updates, parameters at the last meeting less their mean over ranks are an outer gradient.

    A step of SGD with Nesterov momentum takes it from there; every rank makes the same one. Running statistics become
    their mean. Each rank keeps two vectors of the model's size: the last meeting point, and the outer momentum.

    Source: Douillard et al. 2023, "DiLoCo: Distributed Low-Communication Training of Language Models", algorithm 1.
    """

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401
        super().__init__(**arguments)
        momentum = self.settings["outer_momentum"]
        self._point = joined(self._parameters)  # of the last meeting
        self._outer = SGD([self._point], lr=self.settings["outer_lr"], momentum=momentum, nesterov=momentum > 0)

    def state_dict(self) -> dict[str, Any]:
        """See the base class."""
        return {"point": self._point.clone(), "outer": self._outer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See the base class."""
        self._point.copy_(state["point"])
        self._outer.load_state_dict(state["outer"])

    def _met_at(self, mean: Tensor) -> Tensor:
        parameters = mean[: len(self._point)]
        self._point.grad = self._point - parameters
        self._outer.step()
        self._point.grad = None
        parameters.copy_(self._point)
        return mean
