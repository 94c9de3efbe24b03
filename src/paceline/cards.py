"""What is known of each built-in contestant without importing torch: hyperparameters, ranges, targets, data.

Hyperparameters are pydantic models: the field's default, its range, and (``Search``, ``Choices``) what tuning explores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

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
    """Base of the tables below. ``Search`` and ``Choices`` mark what tuning explores unless told otherwise.

    ``reduces``: the optimizer adds up over ranks itself, so that strategies which do so are not for it.
    """

    reduces: ClassVar[bool] = False


class Sgd(Hyperparameters):
    """Stochastic gradient descent, with momentum where it is above 0 (Robbins and Monro 1951; Polyak 1964)."""

    lr: Annotated[float, Field(gt=0), Search(low=1e-3, high=1.0, log=True)] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1), Search(low=0.0, high=0.98)] = 0.9
    dampening: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    nesterov: bool = False


class Adam(Hyperparameters):
    """Adam: steps scaled by running moments of the gradient (Kingma and Ba 2015, algorithm 1)."""

    lr: Annotated[float, Field(gt=0), Search(low=1e-4, high=3e-2, log=True)] = 1e-3
    beta1: Annotated[float, Field(ge=0, lt=1), Search(low=0.8, high=0.99)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    amsgrad: bool = False


class AdamW(Adam):
    """Adam with weight decay apart from the gradient (Loshchilov and Hutter 2019, algorithm 2)."""

    weight_decay: Annotated[float, Field(ge=0), Search(low=1e-4, high=1e-1, log=True)] = 0.01


class Lbfgs(Hyperparameters):
    """L-BFGS whose ranks take one decision (Liu and Nocedal 1989; sharded as Chen, Wang and Zhou 2014).

    ``overlap``: the share of each batch that pairs are made of (Berahas, Nocedal and Takac 2016); 0 for all of it.
    """

    reduces: ClassVar[bool] = True

    lr: Annotated[float, Field(gt=0), Search(low=1e-2, high=1.0, log=True)] = 1.0
    max_iter: Annotated[int, Field(ge=1, le=10_000), Search(low=1, high=20, log=True)] = 20
    max_eval: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    tolerance_grad: Annotated[float, Field(ge=0, lt=1)] = 1e-7
    tolerance_change: Annotated[float, Field(ge=0, lt=1)] = 1e-9
    history_size: Annotated[int, Field(ge=1, le=10_000)] = 100
    line_search: Annotated[
        Literal["weak_wolfe", "strong_wolfe", "armijo", "fixed"], Choices(values=("weak_wolfe", "fixed"))
    ] = "weak_wolfe"
    max_line_search: Annotated[int, Field(ge=1)] = 25
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.0
    damping: bool = False
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    mode: Literal["auto", "replicated", "sharded"] = "auto"


class LbfgsTorch(Hyperparameters):
    """torch.optim.LBFGS, its closure made safe under several ranks (Liu and Nocedal 1989; Nocedal and Wright 2006)."""

    lr: Annotated[float, Field(gt=0), Search(low=1e-2, high=1.0, log=True)] = 1.0
    max_iter: Annotated[int, Field(ge=1, le=10_000), Search(low=1, high=20, log=True)] = 20
    max_eval: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    tolerance_grad: Annotated[float, Field(ge=0)] = 1e-7
    tolerance_change: Annotated[float, Field(ge=0)] = 1e-9
    history_size: Annotated[int, Field(ge=1, le=10_000)] = 100
    line_search: Annotated[Literal["none", "strong_wolfe"], Choices(values=("none", "strong_wolfe"))] = "none"


class AnyHyperparameters(BaseModel):
    """Of an optimizer from outside: every scalar is passed on to its ``build``, which checks it."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, bool | int | float | str]


OPTIMIZERS: dict[str, type[Hyperparameters]] = {
    "adam": Adam,
    "adamw": AdamW,
    "lbfgs": Lbfgs,
    "lbfgs-torch": LbfgsTorch,
    "lbfgs-torch-allreduce": LbfgsTorch,
    "sgd": Sgd,
}


def hyperparameters_of(optimizer: str) -> type[BaseModel]:
    """The table of a canonical optimizer name; permissive for one from outside."""
    return OPTIMIZERS.get(optimizer, AnyHyperparameters)


def reduces(optimizer: str) -> bool:
    """Whether an optimizer, by its canonical name, adds up over ranks itself."""
    return optimizer in OPTIMIZERS and OPTIMIZERS[optimizer].reduces


@dataclass(frozen=True, kw_only=True)
class StrategyCard:
    """Which numbers of ranks a strategy admits, and whether one rank and N ranks agree (``exact``)."""

    summary: str
    min_ranks: int = 1
    max_ranks: int | None = None
    exact: bool = True

    def admits(self, num_ranks: int) -> bool:
        """Whether ``num_ranks`` lies in the range."""
        return self.min_ranks <= num_ranks <= (self.max_ranks or num_ranks)

    @property
    def ranks(self) -> str:
        """The range in words: ``exactly 1``, ``1 or more``."""
        if self.max_ranks is None:
            return f"{self.min_ranks} or more"
        if self.max_ranks == self.min_ranks:
            return f"exactly {self.min_ranks}"
        return f"{self.min_ranks} to {self.max_ranks}"


STRATEGIES: dict[str, StrategyCard] = {
    "by-optimizer": StrategyCard(summary="no wrapper: the optimizer adds up over ranks itself", min_ranks=2),
    "ddp": StrategyCard(summary="torch's DistributedDataParallel; loss and gradient in one collective per bucket"),
    "reproducible": StrategyCard(summary="fixed microbatches, added up by a fixed tree: bits as on one rank"),
    "single": StrategyCard(summary="one process, no distributed wrapper", max_ranks=1),
}


def strategy_card(strategy: str) -> StrategyCard:
    """The card of a strategy; one from outside is taken to admit any number of ranks."""
    return STRATEGIES.get(strategy, StrategyCard(summary="from outside", exact=False))


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
