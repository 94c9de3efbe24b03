"""Schedules of the learning rate: against torch's own, update by update."""

from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, SequentialLR, StepLR

from paceline.study_tables import Schedule
from paceline.train.schedule import lr_factor

NUM = 40


def torch_factors(build):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = build(optimizer)
    factors = []
    for _ in range(NUM):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


def warm_then_cosine(optimizer):
    rise = LinearLR(optimizer, start_factor=1 / 10, total_iters=9)
    fall = CosineAnnealingLR(optimizer, T_max=NUM - 10)
    return SequentialLR(optimizer, [rise, fall], milestones=[10])


AS_TORCH = {
    "cosine": ({"name": "cosine", "final": 0.1}, lambda one: CosineAnnealingLR(one, T_max=NUM, eta_min=0.1)),
    "linear": ({"name": "linear", "final": 0.2}, lambda one: LinearLR(one, 1.0, 0.2, total_iters=NUM)),
    "step": ({"name": "step", "drops": 3}, lambda one: StepLR(one, step_size=NUM // 4, gamma=0.1)),
    "warm-up, then cosine": ({"name": "cosine", "warmup": 0.25}, warm_then_cosine),
}


@pytest.mark.parametrize("case", AS_TORCH)
def test_factors_are_those_of_torch(case):
    settings, build = AS_TORCH[case]
    own = [lr_factor(Schedule(**settings), update, NUM) for update in range(NUM)]
    assert own == pytest.approx(torch_factors(build), abs=1e-6)


def test_one_cycle_rises_and_falls_as_torchs():
    """Torch's peak lies at update 0.3 n - 1, ours is the first after the rise: the same curve, an update apart."""
    own = [lr_factor(Schedule(name="one-cycle"), update, NUM) for update in range(NUM)]
    theirs = torch_factors(lambda one: OneCycleLR(one, max_lr=1.0, total_steps=NUM + 1, cycle_momentum=False))
    assert max(own) == 1.0
    assert own == pytest.approx(theirs, abs=0.13)
    assert own[0] < 0.1
    assert own[-1] < 0.01


def test_constant_stays_and_warm_up_rises_to_it():
    assert {lr_factor(Schedule(name="constant"), update, NUM) for update in range(NUM)} == {1.0}
    warm = [lr_factor(Schedule(name="constant", warmup=0.5), update, 8) for update in range(8)]
    assert warm == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]
