"""Can anything be learned? A short training whose loss must be better on the labels than on shuffled ones.

The workload's own model is trained for a moment, then the targets of random pairs of validation examples are swapped.
If labels have nothing to do with inputs, as when images are paired with the labels of others, a swap is as likely to
help as to hurt, whatever the model has learned, so that the sign test of the differences is exact. Where labels
belong to their inputs, a few dozen updates suffice to tell.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from paceline.data.order import epoch_permutation, update_slices
from paceline.train.evaluate import EVALUATION_BATCH_SIZE
from paceline.workloads.base import Batch, Workload

MODEL_SEED, ORDER_SEED, PAIR_SEED = 101, 102, 103
LR, BATCH_SIZE = 1e-3, 64
LOOK_AFTER = (50, 100, 200, 400, 800, 1600)  # updates
TIME_LIMIT_S = 30.0  # a look that would come later is not taken
LEVEL = 0.001  # of all looks together
MOST_EXAMPLES, FEWEST_EXAMPLES = 2048, 64  # of the validation set


@dataclass(frozen=True, kw_only=True)
class Look:
    """Losses an example on the validation labels and with pairs of them swapped, and the one-sided p-value."""

    num_updates: int
    loss: float
    shuffled_loss: float
    p_value: float

    @property
    def tells_apart(self) -> bool:
        """Whether labels do better than shuffled ones; NaN does not."""
        return self.p_value <= LEVEL / len(LOOK_AFTER)

    def __str__(self) -> str:
        return (
            f"after {self.num_updates} updates the validation loss is {self.loss:.3f} on the labels and "
            f"{self.shuffled_loss:.3f} on shuffled ones, p = {self.p_value:.1g}"
        )


def probe(workload: Workload, device: torch.device) -> Look:
    """Train until the labels are told from shuffled ones, or a limit is met; the last look.

    Of ``workload.num_examples["validation"]``, at least 64, as many as 2,048 are scored.
    """
    began = time.perf_counter()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(MODEL_SEED)
        model = workload.build_model().to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=LR)
        batches = _training_batches(workload)
        num_updates = 0
        for goal in LOOK_AFTER:
            while num_updates < goal:
                _update(model, optimizer, workload, workload.prepare(next(batches), device))
                num_updates += 1
            look = _look(model, workload, device, num_updates)
            elapsed_s = time.perf_counter() - began
            if look.tells_apart or not math.isfinite(look.loss) or 2 * elapsed_s > TIME_LIMIT_S:
                break
    return look


def _training_batches(workload: Workload) -> Iterator[Batch]:
    total, epoch = workload.num_examples["train"], 0
    while True:
        order = epoch_permutation(total, seed=ORDER_SEED, epoch=epoch)
        for cut in update_slices(total, BATCH_SIZE):
            yield workload.batch("train", order[cut], seed=ORDER_SEED, epoch=epoch)
        epoch += 1


def _update(model: nn.Module, optimizer: torch.optim.Optimizer, workload: Workload, batch: Batch) -> None:
    optimizer.zero_grad()
    loss = workload.loss_sum(model(batch.inputs), batch) / len(batch.targets)
    torch.autograd.backward(loss)
    optimizer.step()


def _look(model: nn.Module, workload: Workload, device: torch.device, num_updates: int) -> Look:
    total = workload.num_examples["validation"]
    chosen = np.random.default_rng(PAIR_SEED).permutation(total)[: min(total, MOST_EXAMPLES) // 2 * 2]
    model.eval()
    with torch.no_grad():
        parts = [
            _pair_losses(model, workload, workload.prepare(workload.batch("validation", part, seed=0, epoch=0), device))
            for part in np.split(chosen, range(EVALUATION_BATCH_SIZE, len(chosen), EVALUATION_BATCH_SIZE))
        ]
    model.train()
    own, swapped = np.concatenate(parts, axis=1)
    finite = bool(np.isfinite(own).all() and np.isfinite(swapped).all())
    p_value = _sign_test(int((own < swapped).sum()), int((own != swapped).sum())) if finite else math.nan
    return Look(num_updates=num_updates, loss=own.mean() / 2, shuffled_loss=swapped.mean() / 2, p_value=p_value)


def _sign_test(num_better: int, num_pairs: int) -> float:
    """The chance that of so many fair coins at least ``num_better`` show heads, exactly; a rank does without scipy."""
    return sum(math.comb(num_pairs, number) for number in range(num_better, num_pairs + 1)) / (1 << num_pairs)


def _pair_losses(model: nn.Module, workload: Workload, batch: Batch) -> NDArray[np.float64]:
    """Losses of examples two by two, shape (2, pairs): with their own targets, and with each other's."""
    outputs: Tensor = model(batch.inputs)
    losses = []
    for first in range(0, len(batch.targets), 2):
        pair = slice(first, first + 2)
        inputs, targets = batch.inputs[pair], batch.targets[pair]
        losses.append(
            [workload.loss_sum(outputs[pair], Batch(inputs, asked)).double() for asked in (targets, targets.flip(0))]
        )
    return np.array(torch.tensor(losses).T)
