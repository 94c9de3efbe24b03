"""One suite over the table of optimizers: every setting reaches torch, has an effect, and its state goes round."""

from __future__ import annotations

import copy
import inspect
from types import SimpleNamespace

import pytest

from paceline.cards import OPTIMIZERS
from paceline.registry import resolve
from paceline.strategies.ranks import Ranks

torch = pytest.importorskip("torch")

BASE = {
    "adam": {"beta2": 0.6},
    "adamw": {"beta2": 0.6},
    "sgd": {"momentum": 0.5},
    "lbfgs": {"max_iter": 4, "history_size": 2, "lr": 0.1},
    "lbfgs-torch": {"max_iter": 4, "history_size": 2, "lr": 0.1},
    "lbfgs-torch-allreduce": {"max_iter": 4, "history_size": 2, "lr": 0.1},
}
OTHER = {
    "lr": 0.02, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.3, "nesterov": True, "beta1": 0.5, "beta2": 0.5,
    "eps": 0.1, "amsgrad": True, "max_iter": 2, "max_eval": 2, "tolerance_grad": 10.0, "tolerance_change": 1.0,
    "history_size": 1, "line_search": "strong_wolfe",
}  # fmt: skip
OF_LBFGS = {"tolerance_grad": 0.9, "tolerance_change": 0.5, "line_search": "fixed", "max_line_search": 1}
ELSEWHERE = {("lbfgs", "mode"), ("lbfgs", "damping")}  # in test_lbfgs_ranks.py and test_lbfgs.py
CASES = sorted({(name, key) for name, table in OPTIMIZERS.items() for key in table.model_fields} - ELSEWHERE)


def build(name: str, parameter, **changes):
    settings = OPTIMIZERS[name].model_validate(BASE.get(name, {}) | changes).model_dump()
    builder = resolve("optimizers", name)
    offered = {"model": torch.nn.Module(), "strategy": SimpleNamespace(reduces=True, ranks=Ranks())}
    wanted = {key: offered[key] for key in offered if key in inspect.signature(builder).parameters}
    return builder([parameter], settings, **wanted)


def train(name: str, num_steps: int = 6, **changes):
    """Minimize a badly scaled sum of quartics that gets flatter step by step."""
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5, 1.5], dtype=torch.float64))
    optimizer = build(name, parameter, **changes)
    for step in range(num_steps):
        take(optimizer, parameter, step)
    return parameter.detach().clone()


def take(optimizer, parameter, step: int) -> None:
    scales = torch.tensor([1.0, 3.0, 0.3, 2.0], dtype=torch.float64)

    def closure():
        optimizer.zero_grad()
        loss = ((scales * parameter**4).sum() + (parameter.sum() - 1) ** 2) / (1 + step)
        loss.backward()
        return loss

    optimizer.step(closure)


@pytest.mark.parametrize(("name", "key"), CASES)
def test_every_hyperparameter_has_an_effect(name, key):
    """A setting without effect would be a lie of the study file."""
    other = (OF_LBFGS if name == "lbfgs" else {}).get(key, OTHER.get(key))
    assert not torch.equal(train(name, **{key: other}), train(name))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_goes_round(name):
    """Three steps, state saved and loaded into a new optimizer, three steps: the same bits as six."""
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5, 1.5], dtype=torch.float64))
    optimizer = build(name, parameter)
    for step in range(3):
        take(optimizer, parameter, step)
    resumed = torch.nn.Parameter(parameter.detach().clone())
    other = build(name, resumed)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in range(3, 6):
        take(other, resumed, step)
    assert torch.equal(resumed, train(name))


REFERENCES = {
    "sgd": lambda p: torch.optim.SGD([p], lr=0.05, momentum=0.5, foreach=False),
    "adam": lambda p: torch.optim.Adam([p], lr=1e-3, betas=(0.9, 0.6), foreach=False),
    "adamw": lambda p: torch.optim.AdamW([p], lr=1e-3, betas=(0.9, 0.6), weight_decay=0.01, foreach=False),
    "lbfgs-torch": lambda p: torch.optim.LBFGS([p], lr=0.1, max_iter=4, history_size=2),
    "lbfgs-torch-allreduce": lambda p: torch.optim.LBFGS([p], lr=0.1, max_iter=4, history_size=2),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_an_optimizer_does_what_torch_documents(name):
    """The fused kernels agree with torch's plain ones."""
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5, 1.5], dtype=torch.float64))
    optimizer = REFERENCES[name](parameter)
    for step in range(6):
        take(optimizer, parameter, step)
    assert torch.allclose(train(name), parameter.detach(), rtol=1e-12, atol=0)
