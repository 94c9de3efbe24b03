"""What is known of each built-in contestant without importing torch: hyperparameters, ranges, targets, data.

Hyperparameters are pydantic models: the field's default, its range, and (``Search``, ``Choices``) what tuning explores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from paceline.errors import UsageError

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

Name = Annotated[str, Field(pattern=NAME)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Frozen(BaseModel):
    """Base of every setting: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True)
class Search:
    """The range of a hyperparameter that tuning explores, ends included; ``log``: uniform in its logarithm."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    low: int | float
    high: int | float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise PydanticCustomError("range", "low is below high")
        if self.log and self.low <= 0:
            raise PydanticCustomError("range", "a range on a logarithmic scale starts above 0")


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The values of a hyperparameter that tuning tries."""

    values: tuple[bool | int | float | str, ...]


class Hyperparameters(Frozen):
    """Base of the tables of optimizers and strategies. ``Search`` and ``Choices`` mark what tuning explores."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A value of a metric that a trial must reach on the validation set; ``mode`` says which side counts as reached."""

    metric: str = "accuracy"
    value: float = 0.0
    mode: Literal["max", "min"] = "max"

    def reached(self, value: float) -> bool:
        """Whether ``value`` is at the target or beyond it; never if it is not finite."""
        return math.isfinite(value) and (value >= self.value if self.mode == "max" else value <= self.value)

    def to_dict(self) -> dict[str, Any]:
        """As stored in records and trial.json."""
        return {"metric": self.metric, "value": self.value, "mode": self.mode}


@dataclass(frozen=True, kw_only=True)
class WorkloadCard:
    """A built-in workload: its model and data in words, the data sets it takes (the first one found is used).

    ``targets`` gives for each data set the value that a recorded run reached, and the first digits of the digest of the
    data it was reached on.
    """

    summary: str
    datasets: tuple[str, ...]
    targets: dict[str, tuple[float, str]]
    metric: str = "accuracy"

    def candidates(self, workload: str, dataset: str) -> tuple[str, ...]:
        """The data sets that may serve where a study asks for ``dataset``, in order of preference.

        Raises: UsageError if ``workload`` cannot use it.
        """
        if dataset not in ("auto", *self.datasets):
            allowed = ", ".join(("auto", *self.datasets))
            raise UsageError(f"workload {workload} cannot use the data set '{dataset}'; allowed: {allowed}")
        return self.datasets if dataset == "auto" else (dataset,)

    def was_reached_on(self, dataset: str, data_digest: str) -> bool:
        """Whether the target on ``dataset`` was reached on data of this very digest."""
        return data_digest.startswith(self.targets[dataset][1])

    def target_on(self, dataset: str) -> Target:
        """The target on one of ``datasets``."""
        return Target(metric=self.metric, value=self.targets[dataset][0])


WORKLOADS: dict[str, WorkloadCard] = {
    "lenet5-fashion-mnist": WorkloadCard(
        summary="LeNet-5 on Fashion-MNIST",
        datasets=("fashion-mnist", "fashion-mnist-small"),
        targets={"fashion-mnist": (0.84, "43690423ca35"), "fashion-mnist-small": (0.84, "43690423ca35")},
    ),
    "lenet5-imagenet32": WorkloadCard(
        summary="LeNet-5 on ImageNet at 32x32 pixels",
        datasets=("imagenet32",),
        targets={"imagenet32": (0.45, "b476af65a55e")},
    ),
    "lenet5-imagenet64": WorkloadCard(
        summary="LeNet-5 on ImageNet at 64x64 pixels",
        datasets=("imagenet64",),
        targets={"imagenet64": (0.30, "f07a86314fb8")},
    ),
    "lenet5-mnist": WorkloadCard(
        summary="LeNet-5 on handwritten digits",
        datasets=("mnist", "mnist-small"),
        targets={"mnist": (0.98, "3d32c93dda83"), "mnist-small": (0.95, "5d2498b26318")},
    ),
    "logreg-mnist": WorkloadCard(
        summary="logistic regression on handwritten digits (convex)",
        datasets=("mnist", "mnist-small"),
        targets={"mnist": (0.91, "3d32c93dda83"), "mnist-small": (0.90, "5d2498b26318")},
    ),
    "resnet20-imagenet32": WorkloadCard(
        summary="ResNet-20 with GroupNorm on ImageNet at 32x32 pixels",
        datasets=("imagenet32",),
        targets={"imagenet32": (0.50, "b476af65a55e")},
    ),
}
