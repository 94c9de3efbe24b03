"""Do one rank and N ranks compute the same? A few updates of each, from equal state, in float64.

Float64, so that what is left of rounding cannot hide a wrong factor, nor pass for one.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from paceline.errors import DivergedError
from paceline.strategies.ranks import Ranks
from paceline.study_tables import Options
from paceline.train.findings import Outcome
from paceline.train.loop import Training
from paceline.trial import Trial
from paceline.workloads.base import Batch, Split, Workload

NUM_UPDATES = 3
TOLERANCE = 1e-6  # of the norm of all parameters
MOST_EXAMPLES_A_RANK = 32  # in an update
ROUNDING = 1e-14  # relative size of the nudge that shows whether an optimizer amplifies rounding
DECISIVE = 100.0  # times what a nudge does to one rank: less than that is no difference between one rank and N


class Float64(Workload):
    """A workload whose model and inputs are float64."""

    def __init__(self, workload: Workload) -> None:
        self._of = workload
        self.dataset, self.data_digest, self.target = workload.dataset, workload.data_digest, workload.target
        self.num_examples = workload.num_examples

    def build_model(self) -> nn.Module:
        """The same parameters, with more digits."""
        return self._of.build_model().double()

    def batch(self, split: Split, indices: NDArray[np.int64], *, seed: int, epoch: int) -> Batch:
        """As the workload gives it."""
        return self._of.batch(split, indices, seed=seed, epoch=epoch)

    def prepare(self, batch: Batch, device: torch.device) -> Batch:
        """As the workload prepares it; what is floating point becomes float64."""
        prepared = self._of.prepare(batch, device)
        return Batch(*(part.double() if part.is_floating_point() else part for part in prepared))

    def loss_sum(self, outputs: Tensor, batch: Batch) -> Tensor:
        """That of the workload."""
        return self._of.loss_sum(outputs, batch)

    def metric_sums(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Those of the workload."""
        return self._of.metric_sums(outputs, batch)


SINGLE = {
    "strategy": "single", "strategy_name": "", "strategy_settings": {}, "num_hosts": 1, "ranks_per_host": 1,
}  # fmt: skip


def has_batch_statistics(workload: Workload) -> bool:
    """Whether an example's output depends on the others of its rank's batch, by BatchNorm."""
    return any(isinstance(module, _BatchNorm) for module in workload.build_model().modules())


def compare(trial: Trial, workload: Workload, ranks: Ranks) -> Outcome:
    """Train one rank alone and all of ``ranks`` by the trial's strategy, and say by how much they differ.

    Every rank of ``ranks`` calls this; the answer of rank 0 counts. It trains alone while the others wait.
    """
    subject, trial, wide = trial.cell, _made_small(trial), Float64(workload)
    alone = trial.model_copy(update=SINGLE)
    solo = Ranks(device=ranks.device)
    expected, refusal = _alone(alone, wide, solo) if ranks.rank == 0 else (None, "")
    if ranks.maximum(torch.tensor(bool(refusal), dtype=torch.int8, device=ranks.device)):
        return Outcome(status="not applicable", evidence=f"{subject}: {refusal}")
    distance = _distance_over_ranks(trial, wide, ranks, expected)
    evidence = f"{subject}: {distance:.1g} between the parameters of {ranks.world_size} ranks and of one"
    if distance <= TOLERANCE:
        return Outcome(status="pass", evidence=evidence, weight=distance)
    if expected is not None:
        other, _ = _alone(alone, wide, solo, nudge=True)
        nudged = math.inf if other is None else _relative(other, expected)
        if distance <= DECISIVE * nudged:
            why = "with other random numbers and rounding, one rank alone ends"
            return Outcome(status="not applicable", evidence=f"{evidence}, but {why} {nudged:.1g} from itself")
    return Outcome(status="fail", evidence=evidence, weight=distance)


def _made_small(trial: Trial) -> Trial:
    """The trial with few examples an update, which its ranks cannot share evenly, and nothing below float64."""
    size = min(trial.global_batch_size, MOST_EXAMPLES_A_RANK * trial.num_ranks)
    if size > trial.num_ranks and size % trial.num_ranks == 0:
        size -= 1
    options = Options.model_validate(trial.options.model_dump() | {"compile": False, "autocast": "off"})
    return trial.model_copy(update={"global_batch_size": size, "options": options})


def _alone(trial: Trial, workload: Workload, solo: Ranks, *, nudge: bool = False) -> tuple[Tensor | None, str]:
    """The parameters that one rank ends with, or why it does not get there; its trial will say so itself."""
    try:
        parameters = _train(trial, workload, solo, nudge=nudge)
        return (parameters, "") if parameters.isfinite().all() else (None, "one rank alone diverges")
    except DivergedError as error:
        return None, f"one rank alone diverges: {error}"
    except Exception as error:  # whatever a model or an optimizer from outside raises when it is given float64
        return None, f"one rank alone cannot be trained in float64: {type(error).__name__}: {error}"


def _distance_over_ranks(trial: Trial, workload: Workload, ranks: Ranks, expected: Tensor | None) -> float:
    """How far from ``expected``, which rank 0 knows, the farthest rank ends."""
    try:
        own = _train(trial, workload, ranks)
    except DivergedError:  # on every rank in the same update, since the loss is reduced
        return math.inf
    reference = ranks.sum(torch.zeros_like(own) if expected is None else expected.clone())
    farthest = ranks.maximum(torch.tensor(_relative(own, reference), dtype=torch.float64, device=own.device))
    return float(farthest)


def _train(trial: Trial, workload: Workload, ranks: Ranks, *, nudge: bool = False) -> Tensor:
    """All parameters after a few updates in one vector; ``nudge`` moves the start by rounding and reseeds dropout."""
    with tempfile.TemporaryDirectory() as folder:
        training = Training(trial, workload, ranks, Path(folder))
        try:
            if nudge:
                torch.manual_seed(trial.seed + 1)
                with torch.no_grad():
                    for parameter in training.model.parameters():
                        parameter.mul_(1 + ROUNDING * torch.randn_like(parameter))
            training.advance(NUM_UPDATES)
            return nn.utils.parameters_to_vector(training.model.parameters()).detach().double()
        finally:
            training.close()


def _relative(one: Tensor, other: Tensor) -> float:
    """The norm of the difference over that of ``other``; infinite where it is not finite."""
    distance = float((one - other).norm() / other.norm().clamp_min(1e-300))
    return distance if math.isfinite(distance) else math.inf
