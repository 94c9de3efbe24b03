"""Optimizers of libraries: named by their class, settled where names do not say all, trained on digits."""

from __future__ import annotations

import inspect
import sys

import pytest
import torch
from torch import nn

from optimizers.problems import Digits, with_gradient
from paceline import registry
from paceline.errors import UsageError
from paceline.optimizer_cards import OPTIMIZERS, hyperparameters_of
from paceline.optimizers.muon import hidden_weights
from paceline.study import validate

pytorch_optimizer = pytest.importorskip("pytorch_optimizer")

STUDY = {
    "name": "x", "seeds": [0], "max_epochs": 1, "workloads": {"logreg-mnist": {}},
    "batch": {"rule": "global", "global_batch_size": 8},
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


def build(name: str, model: nn.Module, **given):
    settings = hyperparameters_of(name).model_validate(given).model_dump()
    builder = registry.resolve("optimizers", name)
    wanted = {"model": model} if "model" in inspect.signature(builder).parameters else {}
    return builder(model.parameters(), settings, **wanted)


def losses(optimizer, closure, num_steps: int) -> list[float]:
    if hasattr(optimizer, "train"):
        optimizer.train()
    return [float(optimizer.step(closure)) for _ in range(num_steps)]


FALLS = [name for name in OPTIMIZERS if not name.startswith("lbfgs")]  # whose own tests are in test_lbfgs.py


@pytest.mark.parametrize("name", FALLS)
def test_it_learns_digits_with_its_defaults(name):
    """The mean over 200 images falls by a tenth in 50 updates, by most of them far more."""
    digits = Digits(num_examples=200)
    num_steps = 6 if name == "shampoo" else 50  # each takes it 0.3 s: the root of a matrix of 784
    found = losses(build(name, digits.model), digits.mean(), num_steps)
    assert found[-1] < 0.9 * found[0]


# named by a class


def test_a_class_is_built_of_hyperparameters_as_its_constructor_takes_them():
    model = nn.Linear(3, 2)
    optimizer = build("pytorch_optimizer:AdaBelief", model, lr=0.01, beta1=0.8)
    assert isinstance(optimizer, pytorch_optimizer.AdaBelief)
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.999)
    assert optimizer.param_groups[0]["lr"] == 0.01
    soap = build("pytorch_optimizer:SOAP", model, shampoo_beta="auto")
    assert soap.param_groups[0]["shampoo_beta"] is None


@pytest.mark.parametrize(
    ("name", "settings"),
    [("Ranger21", {"num_iterations": 10, "lr": 0.01}), ("Lion", {"lr": 0.01}), ("AdaPNM", {}), ("Tiger", {})],
)
def test_a_class_by_its_name_is_the_class_by_hand(name, settings):
    by_name, by_hand = Digits(num_examples=50), Digits(num_examples=50)
    found = losses(build(f"pytorch_optimizer:{name}", by_name.model, **settings), by_name.mean(), 4)
    optimizer = getattr(pytorch_optimizer, name)(by_hand.model.parameters(), **settings)
    assert found == losses(optimizer, by_hand.mean(), 4)
    assert found[-1] != found[0]


def test_torch_takes_its_quickest_path():
    model = nn.Linear(3, 2)
    for name, kernel in {"sgd": "fused", "adagrad": "fused", "nadam": "foreach", "torch.optim:ASGD": "foreach"}.items():
        assert build(name, model).param_groups[0][kernel] is True
    assert build("torch.optim:AdamW", model, foreach=False).param_groups[0]["fused"] is None


def test_a_study_passes_hyperparameters_of_a_class_through():
    table = {"name": "pytorch_optimizer:Ranger21", "num_iterations": 10, "lr": 0.01}
    study = validate(STUDY | {"optimizers": {"ranger": table}}, source="study.toml")
    assert study.optimizers["ranger"].hyperparameters == {"num_iterations": 10, "lr": 0.01}


def test_a_hyperparameter_that_a_class_has_not_is_refused():
    """Many of them would take it, and make nothing of it."""
    with pytest.raises(UsageError, match=r"'pytorch_optimizer:Lion' has no hyperparameter 'leraning_rate'; allowed: "):
        build("pytorch_optimizer:Lion", nn.Linear(1, 1), leraning_rate=0.1)
    with pytest.raises(UsageError, match=r"no hyperparameter 'nestrov'; did you mean 'nesterov'\? Allowed: "):
        build("torch.optim:SGD", nn.Linear(1, 1), nestrov=True)


@pytest.mark.parametrize("name", ["SAM", "LOMO", "AdaMuon"])
def test_a_class_that_wants_more_than_parameters_is_refused_with_a_way_out(name):
    with pytest.raises(UsageError, match=rf"'pytorch_optimizer:{name}' cannot be built of .*name a function build"):
        build(f"pytorch_optimizer:{name}", nn.Linear(1, 1))


def test_a_class_of_something_else_is_refused():
    with pytest.raises(UsageError, match=r"'torch\.nn:Linear' is a class, but no torch\.optim\.Optimizer; give one"):
        registry.resolve("optimizers", "torch.nn:Linear")


@pytest.mark.parametrize("name", ["lion", "muon", "pytorch_optimizer:Ranger21"])
def test_without_the_extra_the_error_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    monkeypatch.delitem(sys.modules, "paceline.optimizers.muon", raising=False)
    with pytest.raises(UsageError, match=rf"'{name}' cannot be imported: .*pip install 'paceline\[optimizers\]'"):
        registry.resolve("optimizers", name)


MISTAKES = {
    "sgd": {"nesterov": True, "momentum": 0.0},
    "lars": {"nesterov": True, "momentum": 0.0},
    "sgd-nesterov": {"momentum": 0.0},
    "schedule-free-sgd": {"momentum": 1.0},
    "schedule-free-adamw": {"beta1": 0.0},
    "adafactor": {"d": 0.5},
    "muon": {"ns_steps": 0},
    "lion": {"beta2": 1.0},
    "shampoo": {"preconditioning_compute_steps": 0},
    "soap": {"lr": 0.0},
    "lamb": {"trust_coefficient": 1.0},
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_out_of_range_is_refused_with_the_study(name):
    with pytest.raises(UsageError, match=rf"study\.toml: 1 mistake(.|\n)*optimizers\.{name}"):
        validate(STUDY | {"optimizers": {name: MISTAKES[name]}}, source="study.toml")


# by the paper, where the library leaves a choice


def matrix(seed: int, rows: int = 4, columns: int = 3) -> torch.Tensor:
    return torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def updates(name: str, gradients: list[torch.Tensor], **given) -> tuple[torch.Tensor, torch.Tensor]:
    """A parameter before and after updates by these gradients."""
    parameter = nn.Parameter(matrix(0))
    before = parameter.detach().clone()
    settings = OPTIMIZERS[name].model_validate(given).model_dump()
    optimizer = registry.resolve("optimizers", name)([parameter], settings)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return before, parameter.detach()


def test_lamb_without_decay_is_the_papers():
    """You et al. 2020, algorithm 2, moments corrected for their start: norms take the corrections out."""
    gradients = [matrix(1), matrix(2), matrix(3)]
    w, found = updates("lamb", gradients, lr=0.1, weight_decay=0.0, eps=1e-30)
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        r = m / (1 - 0.9**t) / (v / (1 - 0.999**t)).sqrt()
        w = w - 0.1 * w.norm() / r.norm() * r
    assert torch.allclose(found, w, rtol=1e-9)


def test_lamb_decays_within_the_trust_ratio():
    (g,) = gradients = [matrix(1)]
    w, found = updates("lamb", gradients, lr=0.1, weight_decay=0.5, eps=1e-30)
    r = 0.1 * g / (0.001 * g**2).sqrt() + 0.5 * w
    assert torch.allclose(found, w - 0.1 * w.norm() / r.norm() * r, rtol=1e-9)


def test_shampoo_is_the_papers():
    """Gupta, Koren and Singer 2018, algorithm 1."""

    def root(of: torch.Tensor) -> torch.Tensor:
        values, vectors = torch.linalg.eigh(of)
        return vectors @ torch.diag(values**-0.25) @ vectors.T

    gradients = [matrix(1), matrix(2), matrix(3)]
    w, found = updates("shampoo", gradients, lr=0.1, matrix_eps=0.01, preconditioning_compute_steps=1)
    left, right = 0.01 * torch.eye(4, dtype=torch.float64), 0.01 * torch.eye(3, dtype=torch.float64)
    for g in gradients:
        left, right = left + g @ g.T, right + g.T @ g
        w = w - 0.1 * root(left) @ g @ root(right)
    assert torch.allclose(found, w, rtol=1e-9)


@pytest.mark.parametrize("name", ["schedule-free-sgd", "schedule-free-adamw"])
def test_schedule_free_evaluates_the_mean_of_its_iterates(name):
    """Defazio et al. 2024, equation 5: with a constant rate, all weigh the same."""
    parameter = nn.Parameter(matrix(0))
    settings = OPTIMIZERS[name].model_validate({"lr": 0.05}).model_dump()
    optimizer = registry.resolve("optimizers", name)([parameter], settings)
    optimizer.train()
    iterates = []
    for _ in range(5):
        optimizer.step(with_gradient([parameter], lambda: parameter.pow(4).sum()))
        iterates.append(optimizer.state[parameter]["z"].clone())
    optimizer.eval()
    assert torch.allclose(parameter.detach(), torch.stack(iterates).mean(0), rtol=1e-9)


# muon


class Classifier(nn.Module):
    """An embedding, two hidden layers of which one convolves, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.places = nn.Embedding(5, 4)
        self.convolution = nn.Conv1d(4, 6, 3)
        self.hidden = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 2)


def test_hidden_weights_are_neither_first_nor_last_nor_embeddings():
    model = Classifier()
    assert [id(one) for one in hidden_weights(model)] == [id(model.convolution.weight), id(model.hidden.weight)]
    assert hidden_weights(nn.Linear(3, 2)) == []
    lenet = Digits("lenet5-mnist", num_examples=1).model
    assert [tuple(one.shape) for one in hidden_weights(lenet)] == [(16, 6, 5, 5), (120, 16, 5, 5), (84, 120)]


def test_muon_is_torchs_on_hidden_weights_and_adamw_on_the_rest():
    """torch's takes matrices only: it is given each convolution as one."""
    by_name, by_hand = Digits("lenet5-mnist", num_examples=50), Digits("lenet5-mnist", num_examples=50)
    optimizer = build("muon", by_name.model, weight_decay=0.1, adamw_lr=1e-3)
    hidden = hidden_weights(by_hand.model)
    rest = [one for one in by_hand.model.parameters() if not any(one is other for other in hidden)]
    matrices = [nn.Parameter(one.detach().flatten(1)) for one in hidden]
    muon = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1)
    adamw = torch.optim.AdamW(rest, lr=1e-3, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0)
    found, expected = [], []
    for _ in range(4):
        found.append(float(optimizer.step(by_name.mean())))
        expected.append(float(by_hand.mean()()))
        for one, as_matrix in zip(hidden, matrices, strict=True):
            as_matrix.grad = one.grad.flatten(1)
        muon.step()
        adamw.step()
        with torch.no_grad():
            for one, as_matrix in zip(hidden, matrices, strict=True):
                one.copy_(as_matrix.view_as(one))
    assert found == pytest.approx(expected, rel=1e-4)
    assert found[-1] < found[0] - 0.05


def test_muon_splits_the_share_that_it_is_given():
    """A strategy may give a rank some of the parameters only, even none of the hidden ones."""
    model = Classifier()
    settings = OPTIMIZERS["muon"]().model_dump()
    builder = registry.resolve("optimizers", "muon")
    (group,) = builder([model.head.weight, model.norm.bias], settings, model=model).param_groups
    assert (group["use_muon"], group["lr"], group["betas"]) == (False, 3e-4, (0.9, 0.95))
    (group,) = builder([model.hidden.weight], settings, model=model).param_groups
    assert (group["use_muon"], group["lr"], group["momentum"]) == (True, 0.02, 0.95)
