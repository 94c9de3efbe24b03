"""Muon for the weights of hidden layers, AdamW for the rest: one optimizer of pytorch_optimizer, two groups.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pytorch_optimizer import Muon
from torch import nn
from torch.nn import Parameter
from torch.optim import Optimizer

OF_ADAMW = {"adamw_lr": "lr", "adamw_weight_decay": "weight_decay", "adamw_eps": "eps"}


def build(parameters: Iterable[Parameter], hyperparameters: dict[str, Any], *, model: nn.Module) -> Optimizer:
    """Muon on those of the parameters that are weights of hidden layers; a group that would be empty is left out."""
    rest = dict(hyperparameters)
    adamw: dict[str, Any] = {theirs: rest.pop(ours) for ours, theirs in OF_ADAMW.items()}
    adamw["betas"] = (rest.pop("adamw_beta1"), rest.pop("adamw_beta2"))
    rest["use_adjusted_lr"] = rest.pop("adjust_lr") == "match_rms_adamw"
    hidden = set(hidden_weights(model))
    shares: dict[bool, list[Parameter]] = {True: [], False: []}
    for parameter in parameters:
        shares[parameter in hidden].append(parameter)
    groups = [
        {"params": share, "use_muon": is_hidden} | (rest if is_hidden else adamw)
        for is_hidden, share in shares.items()
        if share
    ]
    return Muon(groups)


def hidden_weights(model: nn.Module) -> list[Parameter]:
    """Weights of two or more dimensions, in the order of the model: but the first, the last, and those of embeddings.

    Muon's author takes embeddings and the head of a classifier out; the first layer is in the place of an embedding.
    Convolutions (out, in, height, width) are matrices of (out, in * height * width).
    """
    weights = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    embeddings = {module.weight for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)}
    return [weight for weight in weights[1:-1] if weight not in embeddings]
