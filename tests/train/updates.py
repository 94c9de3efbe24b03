"""On ranks: the first updates of a trial, and what each of them leaves."""

from __future__ import annotations

import math
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

from paceline.errors import UsageError
from paceline.trial import Trial


def digests(ranks: Any, *, trial: dict[str, Any], num_updates: int, threads: list[int]) -> dict[str, Any]:
    """Loss and digest of parameters and buffers after each update; ``threads`` are those of each rank.

    Returns: these, the number of collectives and of bytes sent, and what the ranks refused, if they did.
    """
    import torch

    from paceline.data.order import epoch_permutation
    from paceline.train.digest import parameters_digest
    from paceline.train.loop import Training
    from paceline.train.progress import EpochSums, seed_generators
    from workloads import pictures

    asked = Trial.model_validate(trial)
    workload = pictures.Pictures(dict(asked.workload_options))
    before = torch.get_num_threads()
    torch.set_num_threads(threads[ranks.rank])
    found: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        training = Training(asked, workload, ranks, Path(folder))
        try:
            seed_generators(asked.seed, epoch=0, rank=0 if training.strategy.same_draws else ranks.rank)
            order = epoch_permutation(workload.num_examples["train"], seed=asked.seed, epoch=0)
            for update in islice(training._updates(order, 0), num_updates):
                sums = EpochSums()
                training.clock.start()
                training._update(update, sums)
                loss = sums.metrics.means(sums.num_samples, ranks)["loss"]
                buffers = math.fsum(buffer.double().sum().item() for buffer in training.model.buffers())
                found.append(f"{loss.hex()} {parameters_digest(training.model)} {buffers.hex()}")
        except UsageError as error:
            return {"refused": str(error)}
        finally:
            training.close()
            torch.set_num_threads(before)
    return {"found": found, "traffic": vars(ranks.traffic)}
