"""Chance level: what a model that ignores its input scores on the validation set, at best."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
import torch

from paceline.train.evaluate import split_batches
from paceline.workloads.base import Workload

_KNOWN: WeakKeyDictionary[Workload, dict[str, float]] = (
    WeakKeyDictionary()
)  # of each open workload: labels are read once


def chance_level(workload: Workload) -> dict[str, float]:
    """The entropy of the validation labels in nats as ``loss``, the share of the commonest as ``accuracy``.

    Returns: ``{}`` where targets are not one integer an example, and so no classes.
    """
    if workload not in _KNOWN:
        _KNOWN[workload] = _of_labels(workload)
    return _KNOWN[workload]


def _of_labels(workload: Workload) -> dict[str, float]:
    labels = []
    for batch in split_batches(workload, "validation", slice(0, workload.num_examples["validation"])):
        if batch.targets.ndim != 1 or batch.targets.is_floating_point():
            return {}
        labels.append(batch.targets)
    counts = np.unique(torch.cat(labels).numpy(), return_counts=True)[1]
    shares = counts / counts.sum()
    return {"loss": float(abs(shares @ np.log(shares))), "accuracy": float(shares.max())}
