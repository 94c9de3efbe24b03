"""On ranks: strategies that reduce gradients, over updates whose gradients are given by hand.

Parts of an update are drawn from its number and the rank's; ``counts`` has the examples of each rank.
"""

from __future__ import annotations

import io
import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from paceline import registry
from paceline.errors import UsageError
from paceline.strategy_cards import strategy_card
from paceline.workloads.base import Batch, Split, Workload

SHAPES = [(12, 5), (7,), (3, 4, 6), ()]
SIZE = sum(math.prod(shape) for shape in SHAPES)
NUM_ZEROS = 3  # elements, the first ones, whose gradients are zero on every rank
DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16")}


class Weights(nn.Module):
    """Outputs linear in all parameters, so that the gradient of an example's output is the example."""

    def __init__(self, shapes: list[list[int]], dtypes: list[str]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(shape, dtype=DTYPES[dtype])) for shape, dtype in zip(shapes, dtypes, strict=True)
        )
        self.register_buffer("mean", torch.zeros(2))  # of the last two inputs, over the last batch

    def forward(self, inputs: Tensor) -> Tensor:
        self.mean.copy_(inputs[:, -2:].mean(0))
        return inputs @ torch.cat([weight.flatten() for weight in self.weights])


class Given(Workload):
    """The loss is the sum of the outputs."""

    def build_model(self) -> nn.Module:
        raise NotImplementedError

    def batch(self, split: Split, indices: NDArray[np.int64], *, seed: int, epoch: int) -> Batch:
        raise NotImplementedError

    def loss_sum(self, outputs: Tensor, batch: Batch) -> Tensor:
        return outputs.sum()

    def metric_sums(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {}


def build(ranks: Any, strategy: str, settings: dict[str, Any], *, shapes: Any = SHAPES, dtypes: Any = None) -> Any:
    """A strategy for ``Weights``."""
    return registry.resolve("strategies", strategy)(
        model=Weights(shapes, dtypes or ["float32"] * len(shapes)),
        workload=Given(),
        ranks=ranks,
        mark=lambda _: None,
        autocast=False,
        settings=strategy_card(strategy).settings(**settings).model_dump(),
    )


def part(count: int, *, update: int | None, rank: int, dtype: torch.dtype) -> Batch:
    """A rank's examples; one that weighs nothing, where it has none."""
    inputs = torch.zeros(max(1, count), SIZE, dtype=torch.float64)
    if update is not None:
        generator = torch.Generator().manual_seed(1000 * update + rank)
        inputs[:, NUM_ZEROS:].normal_(generator=generator)
    return Batch(inputs.to(dtype), torch.zeros(max(1, count)))


def updates(ranks: Any, *, strategy: str, settings: dict[str, Any], counts: list[int], numbers: list[int | None],
            resumed_after: int = -1, dtype: str = "float32", profiled: bool = False) -> dict[str, Any]:  # fmt: skip
    """Evaluate the updates of some ``numbers``; of gradient zero where there is none.

    Args:
        resumed_after: so many updates, a new strategy goes on from the state of the first.
    Returns: per update what the strategy gave, and what this rank alone put in; states and traffic.
    """
    dtypes = [dtype] * len(SHAPES)
    subject = build(ranks, strategy, settings, dtypes=dtypes)
    alone = build(ranks, "single", {}, dtypes=dtypes)
    given: list[dict[str, Any]] = []
    counted_before = dict(vars(ranks.traffic))
    with torch.profiler.profile() if profiled else nullcontext() as profile:
        for number in numbers:
            if len(given) == resumed_after:
                state = through_a_file(subject.state_dict())
                subject = build(ranks, strategy, settings, dtypes=dtypes)
                subject.load_state_dict(state)
            batch = part(counts[ranks.rank], update=number, rank=ranks.rank, dtype=DTYPES[dtype])
            num_examples = sum(counts) if counts[ranks.rank] else math.inf
            given.append(evaluated(subject, batch, num_examples) | {"own": evaluated(alone, batch, num_examples)})
    expected, untold = subject.expected_traffic(len(numbers)), subject.state_dict().get("untold")
    answer = {
        "updates": given,
        "untold": None if untold is None else untold.tolist(),
        "counted": {key: value - counted_before[key] for key, value in vars(ranks.traffic).items()},
        "expected": None if expected is None else vars(expected),
        "seen": sum(event.count for event in profile.key_averages() if event.key.startswith("gloo:")) if profile else 0,
    }
    subject.close()
    return answer


def evaluated(strategy: Any, batch: Batch, num_examples: float) -> dict[str, Any]:
    """What a strategy gives for a batch, cut into two where that can be done."""
    strategy.zero_grad()
    halves = [Batch(*pair) for pair in zip(*(values.tensor_split(2) for values in batch), strict=True)]
    loss = strategy.objective([half for half in halves if len(half.targets)], num_examples=num_examples)
    return {
        "gradient": torch.cat([parameter.grad.flatten() for parameter in strategy.model.parameters()]).tolist(),
        "loss": loss.item(),
        "dtype_of_loss": str(loss.dtype),
        "mean": strategy.model.mean.tolist(),
    }


def through_a_file(state: dict[str, Any]) -> Any:
    """As a checkpoint keeps it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def powersgd_of_torch(ranks: Any, *, settings: dict[str, Any], counts: list[int], numbers: list[int]) -> list[Any]:
    """What torch's hook makes of the same gradients in float64, from the same Q."""
    from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

    class Bucket:
        """All gradients in one, as DDP would hand them over."""

        def __init__(self, vector: Tensor) -> None:
            self.vector = vector

        def buffer(self) -> Tensor:
            return self.vector

        def gradients(self) -> list[Tensor]:
            parts = torch.split(self.vector, [math.prod(shape) for shape in SHAPES])
            return [one.view(shape or (1,)) for one, shape in zip(parts, SHAPES, strict=True)]

        def index(self) -> int:
            return 0

        def is_last(self) -> bool:
            return True

    qs = build(ranks, "powersgd", settings, dtypes=["float64"] * len(SHAPES)).state_dict()["qs"]
    state = PowerSGDState(
        ranks.group, settings["rank"], settings["start"], min_compression_rate=1, orthogonalization_epsilon=0
    )
    state.q_memory_dict[0] = torch.cat([q.flatten() for q in qs])
    shapes = [shape for shape in SHAPES if len(shape) > 1]
    state.p_memory_dict[0] = torch.zeros(sum(shape[0] * settings["rank"] for shape in shapes), dtype=torch.float64)
    gradients = []
    for number in numbers:
        batch = part(counts[ranks.rank], update=number, rank=ranks.rank, dtype=torch.float64)
        own = batch.inputs.sum(0) / sum(counts) if counts[ranks.rank] else torch.zeros(SIZE, dtype=torch.float64)
        mean = powerSGD_hook(state, Bucket(own)).wait()
        gradients.append((mean * ranks.world_size).tolist())
    return gradients


def refusal(ranks: Any, *, strategy: str, shapes: list[Any], dtypes: list[Any]) -> str:
    """What a rank says whose model has its own shapes and dtypes."""
    try:
        build(ranks, strategy, {}, shapes=shapes[ranks.rank], dtypes=dtypes[ranks.rank])
    except UsageError as error:
        return str(error)
    return "nothing"
