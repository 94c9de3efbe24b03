"""What is known of each built-in strategy without importing torch: its settings, what it promises, whom it admits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from paceline.cards import Hyperparameters
from paceline.optimizer_cards import AnyHyperparameters, hyperparameters_of

Cuts = Literal["nothing", "between parameters", "through parameters"]
Reduction = Literal["strategy", "optimizer", "either"]


class NoSettings(Hyperparameters):
    """Of a strategy that has none."""


class Meetings(Hyperparameters):
    """Of strategies whose ranks train by themselves and meet every ``period`` updates."""

    period: Annotated[int, Field(ge=1, le=1_000_000, description="updates between two meetings")] = 8

    @property
    def first_meeting(self) -> int:
        """The number of updates after which ranks first meet."""
        return self.period

    def why_too_short(self, num_updates: int) -> str:
        """Why ranks would never meet in a trial of so many updates; empty if they do."""
        if self.first_meeting <= num_updates:
            return ""
        given = ", ".join(f"{name} = {value}" for name, value in self if name in ("start", "period"))
        return (
            f"ranks would first meet after {self.first_meeting} updates ({given}), and the trial has {num_updates}; "
            "let them meet sooner, or train more epochs"
        )


class LateMeetings(Meetings):
    """The same after ``start`` updates in which gradients are added up over ranks."""

    start: Annotated[int, Field(ge=1, le=1_000_000_000, description="updates that add up gradients")] = 100
    period: Annotated[int, Field(ge=1, le=1_000_000, description="updates between two meetings")] = 16

    @property
    def first_meeting(self) -> int:
        """See the base class."""
        return self.start + self.period


class OuterSteps(Meetings):
    """The same where each meeting is a step of SGD with Nesterov momentum; defaults of Douillard et al. 2023."""

    period: Annotated[int, Field(ge=1, le=1_000_000, description="updates between two meetings")] = 500
    outer_lr: Annotated[float, Field(gt=0, le=10, description="learning rate of the outer steps")] = 0.7
    outer_momentum: Annotated[float, Field(ge=0, lt=1, description="Nesterov momentum of the outer steps")] = 0.9


class TopK(Hyperparameters):
    """``density``: the share of all elements that a rank tells of; 0.01 as Aji and Heafield 2017."""

    density: Annotated[float, Field(gt=0, le=1, description="share of all elements that a rank tells of")] = 0.01


class PowerSgd(Hyperparameters):
    """``rank`` of what is told of a matrix, 2 as Vogels et al. 2019; ``start``: updates before which nothing is so."""

    rank: Annotated[int, Field(ge=1, le=1024, description="of the products that stand for a matrix")] = 2
    start: Annotated[int, Field(ge=0, le=1_000_000_000, description="updates before which nothing is compressed")] = 0


@dataclass(frozen=True, kw_only=True)
class StrategyCard:
    """What a strategy promises, costs and admits.

    ``exact``: one rank and N ranks agree but for rounding. ``keeps_replicas``: all ranks hold the same parameters after
    each update. ``changes_gradients``: what comes back is not the gradient of the whole batch, or has a memory of
    earlier ones, so that no line search can compare two of them. ``cuts``: where it divides the optimizer's work.
    ``sends``: bytes and collectives an update, in words; the strategy itself has the formula. ``steady``: every
    evaluation makes as many collectives as the next. ``reduction``: who adds up over ranks.
    """

    summary: str
    min_ranks: int = 1
    max_ranks: int | None = None
    exact: bool = True
    keeps_replicas: bool = True
    changes_gradients: bool = False
    cuts: Cuts = "nothing"
    evaluates: str = "the parameters"
    sends: str = ""
    steady: bool = True
    reduction: Reduction = "strategy"
    source: str = ""
    settings: type[BaseModel] = NoSettings

    def admits(self, num_ranks: int) -> bool:
        """Whether ``num_ranks`` lies in the range."""
        return self.min_ranks <= num_ranks <= (self.max_ranks or num_ranks)

    def why_not(self, optimizer: str) -> str:
        """Why an optimizer, by its canonical name, cannot be used with it; empty if it can."""
        table: Any = hyperparameters_of(optimizer)
        if table is AnyHyperparameters:
            return ""
        if self.reduction not in ("either", "optimizer" if table.reduces else "strategy"):
            return "it adds up over ranks itself" if table.reduces else "it leaves adding up over ranks to its strategy"
        if table.evaluates_again and (self.changes_gradients or not self.keeps_replicas):
            return "it compares several evaluations of one objective, and these would not be of one"
        if table.evaluates_again and self.cuts != "nothing":
            return "it takes all parameters together for a direction, and each rank would search along one of its own"
        if self.cuts == "through parameters" and not table.elementwise:
            return "it needs whole parameters, and a rank would see a part of each"
        return ""

    @property
    def ranks(self) -> str:
        """The range in words: ``exactly 1``, ``1 or more``."""
        if self.max_ranks is None:
            return f"{self.min_ranks} or more"
        if self.max_ranks == self.min_ranks:
            return f"exactly {self.min_ranks}"
        return f"{self.min_ranks} to {self.max_ranks}"


STRATEGIES: dict[str, StrategyCard] = {
    "bf16": StrategyCard(
        summary="gradients are rounded to bfloat16 and added up in it, the loss in float32",
        exact=False,
        changes_gradients=True,
        sends="2 (W - 1) / W times 2 bytes an element: one all-reduce; beside it a small one of the loss",
        source="Kalamkar et al. 2019, A Study of BFLOAT16 for Deep Learning Training",
    ),
    "by-optimizer": StrategyCard(
        summary="no wrapper: the optimizer adds up over ranks itself",
        min_ranks=2,
        steady=False,
        sends="what the optimizer says",
        reduction="optimizer",
    ),
    "ddp": StrategyCard(
        summary="torch's DistributedDataParallel; loss and gradient in one collective per bucket",
        sends=(
            "2 (W - 1) / W of the bytes of gradients and loss: an all-reduce a bucket, the first of 1 MiB, others of "
            "25 MiB; where the model has running statistics, a broadcast of these"
        ),
        source="Li et al. 2020, PyTorch Distributed: Experiences on Accelerating Data Parallel Training",
    ),
    "diloco": StrategyCard(
        summary="DiLoCo: local training; each meeting is a step of an outer SGD with Nesterov momentum",
        exact=False,
        keeps_replicas=False,
        evaluates="the mean of the ranks' parameters",
        sends="every `period` updates 2 (W - 1) / W of the bytes of parameters and running statistics: one all-reduce",
        source="Douillard et al. 2023, DiLoCo, algorithm 1",
        settings=OuterSteps,
        steady=False,
    ),
    "flat": StrategyCard(
        summary="gradients and loss in one flat buffer, filled after backward; one collective",
        sends="2 (W - 1) / W of the bytes of gradients and loss: one all-reduce",
    ),
    "fp16": StrategyCard(
        summary="gradients are rounded to float16 and added up in it, the loss in float32",
        exact=False,
        changes_gradients=True,
        sends="2 (W - 1) / W times 2 bytes an element: one all-reduce; beside it a small one of the loss",
        source="Micikevicius et al. 2018, Mixed Precision Training",
    ),
    "local-sgd": StrategyCard(
        summary="local SGD: each rank trains on its own part; parameters become their mean now and then",
        exact=False,
        keeps_replicas=False,
        evaluates="the mean of the ranks' parameters",
        sends="every `period` updates 2 (W - 1) / W of the bytes of parameters and running statistics: one all-reduce",
        source="Stich 2019, Local SGD Converges Fast and Communicates Little, algorithm 1",
        settings=Meetings,
        steady=False,
    ),
    "post-local-sgd": StrategyCard(
        summary="post-local SGD: gradients are added up in the first updates, then ranks train as in local-sgd",
        exact=False,
        keeps_replicas=False,
        evaluates="the mean of the ranks' parameters",
        sends=(
            "what flat sends in the first `start` updates, then every `period` updates 2 (W - 1) / W of the bytes of "
            "parameters and running statistics: one all-reduce"
        ),
        source="Lin et al. 2020, Don't Use Large Mini-batches, Use Local SGD",
        settings=LateMeetings,
        steady=False,
    ),
    "powersgd": StrategyCard(
        summary="PowerSGD: gradients of matrices as products of two thin ones; what these miss is added to the next",
        exact=False,
        changes_gradients=True,
        sends=(
            "2 (W - 1) / W times 4 `rank` (n + m) bytes an n x m matrix, and 4 an element of what is not compressed: "
            "two all-reduces; before `start` what flat sends"
        ),
        steady=False,
        source="Vogels, Karimireddy and Jaggi 2019, PowerSGD, algorithms 1 and 2",
        settings=PowerSgd,
    ),
    "reproducible": StrategyCard(
        summary="fixed microbatches, added up by a fixed tree: bits as on one rank",
        sends="(W - 1) times the bytes of gradients, running statistics and loss: one all-gather",
        reduction="either",
    ),
    "sign-sgd": StrategyCard(
        summary="signSGD by majority vote: gradients become 1 or -1, which calls for a learning rate to match",
        exact=False,
        changes_gradients=True,
        sends=(
            "(W - 1) / W bits an element for votes and as many for what is decided, and (W - 1) times the loss: "
            "an all-to-all and an all-gather"
        ),
        source="Bernstein et al. 2018, signSGD, algorithm 3",
    ),
    "single": StrategyCard(
        summary="one process, no distributed wrapper", max_ranks=1, sends="nothing", reduction="either"
    ),
    "top-k": StrategyCard(
        summary="each rank tells of its largest elements only; what is not told is added to the next gradients",
        exact=False,
        changes_gradients=True,
        sends="(W - 1) times 8 bytes for each of `density` times the elements, and the loss: one all-gather",
        source="Stich, Cordonnier and Jaggi 2018, Sparsified SGD with Memory, algorithm 1",
        settings=TopK,
    ),
    "zero1": StrategyCard(
        summary="ZeRO stage 1: each rank keeps the optimizer's state of its share of the parameters",
        cuts="between parameters",
        sends=(
            "what ddp sends, and in each update a broadcast of each rank's share of the parameters, "
            "together the bytes of all"
        ),
        source="Rajbhandari et al. 2020, ZeRO, section 5.1",
    ),
}


def strategy_card(strategy: str) -> StrategyCard:
    """The card of a strategy, by its registered name; one from outside is taken to admit any number of ranks."""
    return STRATEGIES.get(strategy, StrategyCard(summary="from outside", exact=False))
