"""Digests of parameters: equal digests, equal bits."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def parameters_digest(model: nn.Module) -> str:
    """The first 16 hex digits of SHA-256 over every parameter's name, shape and bytes, in order."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        digest.update(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
