"""A workload of one's own that is not about images: guess the next character of English text.

The text is the reference of the Python language that every Python carries (``pydoc_data.topics``), so that this example
runs without a download. Use it in a study:

    [workloads.text]
    name = "next_character:build"
    options = { context = 8 }

and start ``paceline run`` with this file's folder on PYTHONPATH. Four things make a workload: examples by number
(``batch``), a model, a sum of losses, and sums of metrics.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from paceline.cards import Target
from paceline.workloads.base import Batch, Split, Workload, WorkloadRequest

MAX_CHARACTERS = 60_000


def build(request: WorkloadRequest) -> Workload:
    """What ``next_character:build`` in a study file calls."""
    options = dict(request.options)
    return NextCharacter(context=int(options.get("context", 8)))


class NextCharacter(Workload):
    """Predict a character from the ``context`` characters before it; every tenth is validation, every 11th test."""

    def __init__(self, *, context: int) -> None:
        from pydoc_data.topics import topics

        text = "\n".join(topics[name] for name in sorted(topics))[:MAX_CHARACTERS]
        self.alphabet = sorted(set(text))
        codes = {character: code for code, character in enumerate(self.alphabet)}
        self._codes = np.array([codes[character] for character in text], dtype=np.int64)
        self._context = context

        places = np.arange(context, len(text))
        self._places: dict[Split, NDArray[np.int64]] = {
            "validation": places[places % 10 == 0],
            "test": places[(places % 11 == 0) & (places % 10 != 0)],
            "train": places[(places % 10 != 0) & (places % 11 != 0)],
        }
        self.dataset = "python-reference"
        self.data_digest = hashlib.sha256(text.encode()).hexdigest()
        self.num_examples = {split: len(found) for split, found in self._places.items()}
        self.target = Target(metric="accuracy", value=0.45)

    def build_model(self) -> nn.Module:
        """An embedding of each character and two linear layers."""
        size = len(self.alphabet)
        return nn.Sequential(
            nn.Embedding(size, 16), nn.Flatten(), nn.Linear(16 * self._context, 128), nn.Tanh(), nn.Linear(128, size)
        )

    def batch(self, split: Split, indices: NDArray[np.int64], *, seed: int, epoch: int) -> Batch:
        """Codes of shape (n, context), and the code that follows each, of shape (n,)."""
        del seed, epoch  # nothing here is random
        places = self._places[split][indices]
        before = self._codes[places[:, None] + np.arange(-self._context, 0)]
        return Batch(torch.from_numpy(before), torch.from_numpy(self._codes[places]))

    def loss_sum(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Sum of cross-entropies in nats."""
        return functional.cross_entropy(outputs, batch.targets, reduction="sum")

    def metric_sums(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Number of characters guessed right."""
        return {"accuracy": (outputs.argmax(1) == batch.targets).sum()}
