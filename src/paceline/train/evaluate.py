"""Evaluation: a whole split, shared out over the ranks without padding, its exact sums reduced."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import nn

from paceline.data.order import rank_part
from paceline.strategies.ranks import Ranks
from paceline.train.prefetch import prefetch
from paceline.workloads.base import Batch, Split, Workload

EVALUATION_BATCH_SIZE = 256  # examples; bounds memory, changes no count
_COUNT = ""  # among the sums of metrics: no metric has this name


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a split scored, ``{"loss": ..., "accuracy": ...}``, and how many examples that was, over all ranks."""

    means: dict[str, float]
    num_examples: int


def evaluate(model: nn.Module, workload: Workload, split: Split, *, ranks: Ranks, autocast: bool = False) -> Scores:
    """The mean loss and metrics of a split, the same on every rank; none is finite where the loss is not."""
    total = workload.num_examples[split]
    part = rank_part(total, rank=ranks.rank, world_size=ranks.world_size)
    sums, num_own = MetricSums(), 0
    was_training = model.training
    model.eval()
    with torch.no_grad(), torch.autocast(ranks.device.type, dtype=torch.bfloat16, enabled=autocast):
        for host_batch in prefetch(split_batches(workload, split, part)):
            batch = workload.prepare(host_batch, ranks.device)
            outputs = model(batch.inputs)
            sums.add({"loss": workload.loss_sum(outputs, batch), **workload.metric_sums(outputs, batch)})
            num_own += len(batch.targets)
    model.train(was_training)
    sums.add({_COUNT: torch.tensor(num_own, device=ranks.device)})
    totals = sums.totals(ranks)
    num_examples = round(totals.pop(_COUNT))
    means = {name: value / total for name, value in totals.items()}
    if not math.isfinite(means["loss"]):  # what is right of a model that gives no numbers is chance
        means = dict.fromkeys(means, means["loss"])
    return Scores(means=means, num_examples=num_examples)


def split_batches(workload: Workload, split: Split, part: slice) -> Iterator[Batch]:
    """A part of a split in its own order, still on the host, in batches that fit in memory."""
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

    def state_dict(self) -> dict[str, float]:
        """For a checkpoint: this rank's sums, by name."""
        return {name: value.item() for name, value in self._sums.items()}

    @classmethod
    def from_state_dict(cls, state: dict[str, float], device: torch.device) -> MetricSums:
        """The reverse of ``state_dict``."""
        sums = cls()
        sums._sums = {name: torch.tensor(value, dtype=torch.float64, device=device) for name, value in state.items()}
        return sums

    def means(self, num_examples: int, ranks: Ranks) -> dict[str, float]:
        """Divide by a number of examples, after adding up over ranks."""
        return {name: value / num_examples for name, value in self.totals(ranks).items()}

    def totals(self, ranks: Ranks, beside: Mapping[str, float] = MappingProxyType({})) -> dict[str, float]:
        """The sums over all ranks, by name, and those of what each tells ``beside``, in the same collective."""
        names = sorted(self._sums)
        own = torch.stack([self._sums[name] for name in names])
        told = ranks.sum(torch.cat([own, own.new_tensor(list(beside.values()))])).tolist()
        return dict(zip([*names, *beside], told, strict=True))
