"""Evaluation: a whole split, shared out over the ranks without padding, its exact sums reduced."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from paceline.data.order import rank_part
from paceline.strategies.ranks import Ranks
from paceline.train.prefetch import prefetch
from paceline.workloads.base import Batch, Split, Workload

EVALUATION_BATCH_SIZE = 256  # examples; bounds memory, changes no count


def evaluate(
    model: nn.Module, workload: Workload, split: Split, *, ranks: Ranks, autocast: bool = False
) -> dict[str, float]:
    """The mean loss and metrics of a split, the same on every rank: ``{"loss": ..., "accuracy": ...}``."""
    total = workload.num_examples[split]
    part = rank_part(total, rank=ranks.rank, world_size=ranks.world_size)
    sums = MetricSums()
    was_training = model.training
    model.eval()
    with torch.no_grad(), torch.autocast(ranks.device.type, dtype=torch.bfloat16, enabled=autocast):
        for host_batch in prefetch(_batches(workload, split, part)):
            batch = workload.prepare(host_batch, ranks.device)
            outputs = model(batch.inputs)
            sums.add({"loss": workload.loss_sum(outputs, batch), **workload.metric_sums(outputs, batch)})
    model.train(was_training)
    return sums.means(total, ranks)


def _batches(workload: Workload, split: Split, part: slice) -> Iterator[Batch]:
    for first in range(part.start, part.stop, EVALUATION_BATCH_SIZE):
        indices = np.arange(first, min(first + EVALUATION_BATCH_SIZE, part.stop))
        yield workload.batch(split, indices, seed=0, epoch=0)


class MetricSums:
    """Sums of loss and metrics in float64, kept on the device until they are asked for."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, sums: dict[str, torch.Tensor], *, weight: float = 1.0) -> None:
        """Add sums over some examples, by name, each times ``weight``. Tensors without a graph."""
        for name, value in sums.items():
            if name not in self._sums:
                self._sums[name] = torch.zeros((), dtype=torch.float64, device=value.device)
            self._sums[name].add_(value, alpha=weight)

    def means(self, num_examples: int, ranks: Ranks) -> dict[str, float]:
        """Divide by a number of examples, after adding up over ranks."""
        names = sorted(self._sums)
        totals = ranks.sum(torch.stack([self._sums[name] for name in names])).tolist()
        return {name: value / num_examples for name, value in zip(names, totals, strict=True)}
