"""Multinomial logistic regression: one linear layer, a convex objective."""

from __future__ import annotations

from torch import Tensor, nn


class LogisticRegression(nn.Module):
    """Logits linear in the inputs.

    Input: shape (batch, ...), flattened to ``num_inputs`` numbers. Output: shape (batch, classes).
    """

    def __init__(self, *, num_inputs: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_inputs, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of a batch."""
        logits: Tensor = self.linear(inputs.flatten(1))
        return logits
