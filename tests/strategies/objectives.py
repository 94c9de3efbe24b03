"""On ranks: what a strategy says of loss and gradient, beside plain autograd over the whole batch."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any


def compare(ranks: Any, *, strategy: str, num_examples: int, num_micro_batches: int) -> dict[str, Any]:
    """Loss and gradient of ``num_examples`` examples by a strategy and by autograd on the whole batch, in float64."""
    import math

    import numpy as np
    import torch

    from paceline import registry
    from paceline.data.order import rank_part
    from paceline.strategy_cards import strategy_card
    from workloads.toy import Toy

    workload = Toy({"dtype": "float64"})
    torch.manual_seed(0)
    model = workload.build_model()
    indices = np.arange(100, 100 + num_examples)

    points, labels = workload.batch("train", indices, seed=0, epoch=0)
    expected_loss = torch.nn.functional.cross_entropy(model(points), labels)
    expected = torch.autograd.grad(expected_loss, list(model.parameters()))

    shared = registry.resolve("strategies", strategy)(
        model=model, workload=workload, ranks=ranks, mark=lambda _: None, autocast=False,
        settings=strategy_card(strategy).settings().model_dump(),
    )  # fmt: skip
    own = indices[rank_part(num_examples, rank=ranks.rank, world_size=ranks.world_size)]
    parts = [part for part in np.array_split(own if len(own) else indices[:1], num_micro_batches) if len(part)]
    batches = [workload.batch("train", part, seed=0, epoch=0) for part in parts]
    losses = []
    for _ in range(2):  # the second must not add to the first
        shared.zero_grad()
        losses.append(shared.objective(batches, num_examples=num_examples if len(own) else math.inf).item())
    answer = {
        "losses": losses,
        "expected_loss": expected_loss.item(),
        "gradient": torch.cat([p.grad.flatten() for p in model.parameters()]).tolist(),
        "expected_gradient": torch.cat([g.flatten() for g in expected]).tolist(),
        "num_outputs": [len(outputs) for outputs in shared.outputs],
        "parameter_names": [name for name, _ in model.named_parameters()],
    }
    shared.close()
    return answer


def traffic(ranks: Any, *, num_micro_batches: int, running_mean: bool, num_objectives: int) -> dict[str, Any]:
    """What a DDP trial counts, and the collectives that gloo itself saw, over some evaluations of the objective."""
    import numpy as np
    import torch

    from paceline.data.order import rank_part
    from paceline.strategies.ddp import Ddp
    from workloads.toy import Toy

    workload = Toy({"running_mean": running_mean})
    model = workload.build_model()
    ddp = Ddp(model=model, workload=workload, ranks=ranks, mark=lambda _: None, autocast=False, settings={})
    own = np.arange(60)[rank_part(60, rank=ranks.rank, world_size=ranks.world_size)]
    batches = [workload.batch("train", part, seed=0, epoch=0) for part in np.array_split(own, num_micro_batches)]

    def objective() -> None:
        ddp.zero_grad()
        ddp.objective(batches, num_examples=60)

    for _ in range(2):  # the first is off the books in a trial, too; before the second, DDP rearranges its buckets
        objective()
    counted_before = dict(vars(ranks.traffic))
    with torch.profiler.profile() if ranks.world_size > 1 else nullcontext() as profile:
        for _ in range(num_objectives):
            objective()
    seen = {event.key: event.count for event in profile.key_averages() if event.key.startswith("gloo:")}
    ddp.close()
    return {
        "counted": {key: value - counted_before[key] for key, value in vars(ranks.traffic).items()},
        "seen": seen,
        "gradient_bytes": sum(parameter.nbytes for parameter in model.parameters()),
        "buffer_bytes": sum(buffer.nbytes for buffer in model.buffers()),
    }
