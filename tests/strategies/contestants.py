"""On ranks: updates of the toy model by a strategy, stepped as the loop steps it."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paceline import registry
from paceline.data.order import rank_part
from paceline.optimizer_cards import hyperparameters_of
from paceline.strategy_cards import strategy_card
from train.trials import flat
from workloads.toy import Toy


class Contestant:
    """A strategy and an optimizer; ``Contestant(...).update(examples)`` makes one update."""

    def __init__(
        self, ranks: Any, *, strategy: str, settings: dict[str, Any], optimizer: dict[str, Any], toy: dict[str, Any]
    ) -> None:
        torch.manual_seed(0)
        self.ranks, self.workload = ranks, Toy({"dtype": "float64"} | toy)
        self.model = self.workload.build_model()
        self.strategy = registry.resolve("strategies", strategy)(
            model=self.model,
            workload=self.workload,
            ranks=ranks,
            mark=lambda _: None,
            autocast=False,
            settings=strategy_card(strategy).settings.model_validate(settings).model_dump(),
        )
        name = optimizer["name"]
        given = {key: value for key, value in optimizer.items() if key != "name"}
        hyperparameters = hyperparameters_of(name).model_validate(given).model_dump()
        build = registry.resolve("optimizers", name)
        self.optimizer = self.strategy.build_optimizer(lambda parameters: build(parameters, hyperparameters))
        self.strategy.attach(self.optimizer)
        self.num_updates = 0
        self._discarded_passes()

    def _discarded_passes(self) -> None:
        """As the loop makes them: DDP's first one adds up in another order than later ones."""
        before = copy.deepcopy(self.model.state_dict())
        batch = self.workload.batch("train", np.arange(8), seed=0, epoch=0)
        for _ in range(2):
            self.strategy.objective([batch], num_examples=8 * self.ranks.world_size)
            self.strategy.zero_grad()
        self.model.load_state_dict(before)
        vars(self.ranks.traffic).update(bytes_sent=0, num_collectives=0)

    def update(self, examples: Any) -> list[float]:
        """One update; returns what the model had when the optimizer had stepped, before ranks met."""
        own = examples[rank_part(len(examples), rank=self.ranks.rank, world_size=self.ranks.world_size)]
        batch = self.workload.batch("train", own if len(own) else examples[:1], seed=0, epoch=0)
        num_examples = {"global": len(examples), "own": len(own)}[self.strategy.divides_by] if len(own) else math.inf

        def closure() -> Any:
            self.strategy.zero_grad()
            return self.strategy.objective([batch], num_examples=num_examples)

        self.optimizer.step(closure)
        stepped = flat(self.model.state_dict())
        self.num_updates += 1
        self.strategy.after_update(self.num_updates)
        return stepped

    def updates(self, sizes: list[int]) -> list[dict[str, Any]]:
        """Updates of so many examples each; parameters and buffers when each had stepped, and after it."""
        made = []
        for size in sizes:
            stepped = self.update(np.arange(size) + 37 * self.num_updates)
            made.append({"stepped": stepped, "after": flat(self.model.state_dict())})
        return made

    def state(self) -> dict[str, Any]:
        """What a checkpoint has of this rank, and of the optimizer what is gathered."""
        gather = getattr(self.optimizer, "gather_state_dict", self.optimizer.state_dict)
        return {"model": self.model.state_dict(), "optimizer": gather(), "strategy": self.strategy.state_dict()}

    def load(self, state: dict[str, Any], num_updates: int) -> None:
        """Go on from it."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.strategy.load_state_dict(state["strategy"])
        self.num_updates = num_updates


def train(ranks: Any, *, sizes: list[int], **contestant: Any) -> dict[str, Any]:
    """Every update, what was counted and what the formula says, and the parameters that are evaluated."""
    one = Contestant(ranks, **contestant)
    begun = flat(one.model.state_dict())
    made = one.updates(sizes)
    counted = dict(vars(ranks.traffic))
    with one.strategy.evaluated():
        evaluated = flat(one.model.state_dict())
    answer = {
        "begun": begun,
        "updates": made,
        "counted": counted,
        "expected": vars(one.strategy.expected_traffic(len(sizes))),
        "counted_after_evaluation": dict(vars(ranks.traffic)),
        "evaluated": evaluated,
        "after_evaluation": flat(one.model.state_dict()),
        "state_bytes": state_bytes(one.optimizer.state_dict()),
        "num_parameters": sum(parameter.numel() for parameter in one.model.parameters()),
        "num_statistics": sum(buffer.numel() for buffer in one.model.buffers()),
    }
    one.strategy.close()
    return answer


def collectives(ranks: Any, *, sizes: list[int], **contestant: Any) -> dict[str, Any]:
    """The collectives that gloo itself saw in some updates, beside those that were counted."""
    one = Contestant(ranks, **contestant)
    with torch.profiler.profile() as profile:
        one.updates(sizes)
    one.strategy.close()
    seen = sum(event.count for event in profile.key_averages() if event.key.startswith("gloo:"))
    return {"counted": ranks.traffic.num_collectives, "seen": seen}


def resume(ranks: Any, *, sizes: list[int], num_before: int, folder: str, **contestant: Any) -> dict[str, Any]:
    """All updates at a stretch, and with an end and a new beginning after the first ``num_before``."""
    one = Contestant(ranks, **contestant)
    one.updates(sizes[:num_before])
    state = one.state()
    torch.save(state, Path(folder) / f"rank-{ranks.rank}.pt")
    one.updates(sizes[num_before:])
    ranks.barrier()
    other = Contestant(ranks, **contestant)
    own, first = (torch.load(Path(folder) / f"rank-{rank}.pt", weights_only=True) for rank in (ranks.rank, 0))
    if other.strategy.keeps_replicas:
        own["optimizer"] = first["optimizer"]
    other.load(own, num_before)
    other.updates(sizes[num_before:])
    ended = [flat(contestant.model.state_dict()) for contestant in (one, other)]
    one.strategy.close()
    other.strategy.close()
    return {"uninterrupted": ended[0], "resumed": ended[1]}


def state_bytes(state: Any) -> int:
    """Of all tensors of at least two elements in a state dict, which leaves out counts of steps."""
    if isinstance(state, torch.Tensor):
        return state.nbytes if state.numel() > 1 else 0
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return sum(state_bytes(value) for value in values)


def refusal(ranks: Any, *, hidden: list[int], **contestant: Any) -> str:
    """What a rank says whose model has ``hidden[rank]`` hidden units."""
    from paceline.errors import UsageError

    try:
        Contestant(ranks, toy={"hidden": hidden[ranks.rank]}, **contestant)
    except UsageError as error:
        return str(error)
    raise AssertionError("it was built")


def load_elsewhere(ranks: Any, *, folder: str, **contestant: Any) -> str:
    """Save a state if there is none, else load it; what was said against it."""
    from paceline.errors import UsageError

    path, one = Path(folder) / "state.pt", Contestant(ranks, **contestant)
    one.updates([9])
    exists, state = path.exists(), one.state()
    ranks.barrier()
    if ranks.rank == 0 and not exists:
        torch.save(state, path)
    ranks.barrier()
    try:
        one.load(torch.load(path, weights_only=True), 1)
    except UsageError as error:
        return str(error)
    finally:
        one.strategy.close()
    return ""


def modes(ranks: Any) -> dict[str, Any]:
    """Parameters that are trained, and evaluated, by an optimizer that moves them by 1 for evaluations."""
    from paceline.strategies.zero1 import Zero1

    class Moving(torch.optim.SGD):
        def eval(self) -> None:
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.data += 1

    workload = Toy({})
    torch.manual_seed(0)
    model = workload.build_model()
    zero1 = Zero1(model=model, workload=workload, ranks=ranks, mark=lambda _: None, autocast=False, settings={})
    optimizer: Any = zero1.build_optimizer(lambda parameters: Moving(parameters, lr=0.1))
    trained = flat(model.state_dict())
    optimizer.eval()
    with zero1.evaluated():
        evaluated = flat(model.state_dict())
    zero1.close()
    return {"trained": trained, "evaluated": evaluated, "has_train": hasattr(optimizer, "train")}
