"""Do the ranks have the same model? Found out before a collective would hang, or mix things up."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from paceline.errors import UsageError
from paceline.strategies.ranks import Ranks


def refuse_unlike_models(model: nn.Module, ranks: Ranks) -> None:
    """Compare names, shapes and dtypes of parameters and buffers over ranks. Every rank calls this; off the books.

    Raises: UsageError, the same on every rank, where they differ.
    """
    own = [
        f"{name} {tuple(part.shape)} {part.dtype}{'' if part.requires_grad else ', not trained'}"
        for name, part in chain(model.named_parameters(), model.named_buffers())
    ]
    number = int.from_bytes(hashlib.sha256("\n".join(own).encode()).digest()[:7], "big")
    highest, lowest = ranks.maximum(torch.tensor([number, -number], device=ranks.device)).tolist()
    if highest == -lowest:
        return
    of_ranks: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(of_ranks, own, group=ranks.group)
    rank, other = next((rank, other) for rank, other in enumerate(of_ranks) if other != of_ranks[0])
    here, there = next(pair for pair in zip_longest(of_ranks[0], other, fillvalue="nothing more") if len({*pair}) == 2)
    raise UsageError(
        f"ranks disagree about the model: where rank 0 has {here}, rank {rank} has {there}; "
        "let the workload build the same model on every rank"
    )


def common_dtype(parameters: Sequence[Tensor]) -> torch.dtype:
    """The dtype that all of some parameters have.

    Raises: UsageError if they have several, or there is none to be trained.
    """
    dtypes = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in parameters})
    if len(dtypes) != 1:
        raise UsageError(
            f"the model's parameters are {' and '.join(dtypes)}, and this strategy puts all gradients into one buffer "
            "of one dtype; convert the whole model with model.to(dtype), or use the strategy ddp"
            if dtypes
            else "the model has no parameter that requires a gradient; there is nothing to train"
        )
    return parameters[0].dtype
