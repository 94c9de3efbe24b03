"""One suite over the table of optimizers: settings have effects, the state goes round, the rule is the library's."""

from __future__ import annotations

import inspect
import io
from types import SimpleNamespace

import pytest

from paceline.optimizer_cards import OPTIMIZERS
from paceline.registry import resolve
from paceline.strategies.ranks import Ranks

torch = pytest.importorskip("torch")

OF_LBFGS = {"max_iter": 4, "history_size": 2, "lr": 0.1}
BASE = {
    "adam": {"beta2": 0.6},
    "adamw": {"beta2": 0.6},
    "lars": {"lr": 0.02},
    "lbfgs": OF_LBFGS,
    "lbfgs-torch": OF_LBFGS,
    "lbfgs-torch-allreduce": OF_LBFGS,
    "lion": {"lr": 0.3},
    "nadam": {"weight_decay": 0.1},
    "schedule-free-adamw": {"warmup_steps": 2},
    "schedule-free-sgd": {"warmup_steps": 2, "lr": 0.05},
    "sgd": {"momentum": 0.5},
    "sgd-nesterov": {"momentum": 0.5},
}
OTHER = {
    "lr": 0.02, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.3, "nesterov": True, "beta1": 0.5, "beta2": 0.5,
    "eps": 0.1, "amsgrad": True, "max_iter": 2, "max_eval": 2, "tolerance_grad": 10.0, "tolerance_change": 1.0,
    "history_size": 1, "line_search": "strong_wolfe", "alpha": 0.5, "centered": True, "lr_decay": 0.5,
    "initial_accumulator_value": 0.5, "momentum_decay": 0.5, "decoupled_weight_decay": True, "beta2_decay": -0.3,
    "eps1": 20.0, "eps2": 10.0, "d": 2.0, "trust_coefficient": 0.1, "ns_steps": 2, "adjust_lr": "match_rms_adamw",
    "adamw_lr": 0.02, "adamw_beta1": 0.5, "adamw_beta2": 0.5, "adamw_eps": 0.1, "adamw_weight_decay": 0.3,
    "preconditioning_compute_steps": 2, "matrix_eps": 0.1, "precondition_frequency": 2, "max_precondition_dim": 1,
    "warmup_steps": 4, "r": 1.0, "weight_lr_power": 0.5,
}  # fmt: skip
OTHER_OF = {
    "lbfgs": {"tolerance_grad": 0.9, "tolerance_change": 0.5, "line_search": "fixed", "max_line_search": 1},
    "lars": {"lr": 0.01},
    "muon": {"lr": 0.05, "nesterov": False},
}
# in test_lbfgs_ranks.py, test_lbfgs.py and test_parity.py
ELSEWHERE = {("lbfgs", "mode"), ("lbfgs", "damping"), ("lbfgs", "overlap")}
CASES = sorted({(name, key) for name, table in OPTIMIZERS.items() for key in table.model_fields} - ELSEWHERE)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Small work on two threads waits more than it computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Weights(torch.nn.Module):
    """Three matrices and a vector, so that there is a hidden one."""

    def __init__(self, dtype=torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shapes = [(2, 2), (3, 2), (2, 3), (2,)]
        self.all = torch.nn.ParameterList(torch.randn(shape, dtype=dtype, generator=generator) for shape in shapes)
        self.scales = [torch.rand(shape, dtype=dtype, generator=generator) * 3 for shape in shapes]

    def loss(self, step: int) -> torch.Tensor:
        """A badly scaled sum of quartics that gets flatter step by step."""
        pairs = list(zip(self.all, self.scales, strict=True))
        quartics = sum((scale * one**4).sum() for one, scale in pairs)
        return (quartics + (sum(one.sum() for one, _ in pairs) - 1) ** 2) / (30 * (1 + step))

    def flat(self) -> torch.Tensor:
        return torch.cat([one.detach().flatten() for one in self.all])


def build(name: str, model: torch.nn.Module, parameters=None, **changes):
    settings = OPTIMIZERS[name].model_validate(BASE.get(name, {}) | changes).model_dump()
    builder = resolve("optimizers", name)
    offered = {"model": model, "strategy": SimpleNamespace(reduces=True, ranks=Ranks())}
    wanted = {key: offered[key] for key in offered if key in inspect.signature(builder).parameters}
    return builder(list(model.parameters()) if parameters is None else parameters, settings, **wanted)


def take(optimizer, model: Weights, steps) -> torch.Tensor:
    if hasattr(optimizer, "train"):
        optimizer.train()
    for step in steps:

        def closure(step=step):
            optimizer.zero_grad()
            loss = model.loss(step)
            loss.backward()
            return loss

        optimizer.step(closure)
    assert model.flat().isfinite().all()
    return model.flat()


def train(name: str, num_steps: int = 6, **changes) -> torch.Tensor:
    model = Weights()
    return take(build(name, model, **changes), model, range(num_steps))


@pytest.fixture(scope="module")
def unchanged() -> dict[str, torch.Tensor]:
    """Where each optimizer gets to with its settings here."""
    return {name: train(name) for name in OPTIMIZERS}


@pytest.mark.parametrize(("name", "key"), CASES)
def test_every_hyperparameter_has_an_effect(name, key, unchanged):
    """A setting without effect would be a lie of the study file."""
    other = OTHER_OF.get(name, {}).get(key, OTHER.get(key))
    assert not torch.equal(train(name, **{key: other}), unchanged[name])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_goes_round(name):
    """Three steps, state saved and read into a new optimizer as checkpoints are, three steps: the same bits as six.

    Of float32: torch's NAdam keeps a product in that, and has it in float64 once it is loaded beside such parameters.
    """
    model, straight = Weights(torch.float32), Weights(torch.float32)
    take(build(name, straight), straight, range(6))
    optimizer = build(name, model)
    take(optimizer, model, range(3))
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    resumed = Weights(torch.float32)
    other = build(name, resumed)
    weights, state = torch.load(file, weights_only=True)
    resumed.load_state_dict(weights)
    other.load_state_dict(state)
    assert torch.equal(take(other, resumed, range(3, 6)), straight.flat())


OF_ADAM = {"lr": 1e-3, "betas": (0.9, 0.6), "foreach": False}
REFERENCES = {
    "adafactor": ("torch.optim", "Adafactor", {"foreach": False}),
    "adagrad": ("torch.optim", "Adagrad", {"foreach": False}),
    "adam": ("torch.optim", "Adam", OF_ADAM),
    "adamw": ("torch.optim", "AdamW", OF_ADAM | {"weight_decay": 0.01}),
    "lamb": ("pytorch_optimizer", "Lamb",
             {"weight_decay": 0.01, "weight_decouple": False, "adam_debias": True, "foreach": False}),
    "lars": ("pytorch_optimizer", "LARS", {"lr": 0.02, "weight_decay": 5e-4, "foreach": False}),
    "lbfgs-torch": ("torch.optim", "LBFGS", OF_LBFGS),
    "lbfgs-torch-allreduce": ("torch.optim", "LBFGS", OF_LBFGS),
    "lion": ("pytorch_optimizer", "Lion", {"lr": 0.3, "foreach": False}),
    "nadam": ("torch.optim", "NAdam", {"weight_decay": 0.1, "foreach": False}),
    "rmsprop": ("torch.optim", "RMSprop", {"foreach": False}),
    "schedule-free-adamw": ("pytorch_optimizer", "ScheduleFreeAdamW", {"warmup_steps": 2, "foreach": False}),
    "schedule-free-sgd": ("pytorch_optimizer", "ScheduleFreeSGD", {"lr": 0.05, "warmup_steps": 2, "foreach": False}),
    "sgd": ("torch.optim", "SGD", {"lr": 0.05, "momentum": 0.5, "foreach": False}),
    "sgd-nesterov": ("torch.optim", "SGD", {"lr": 0.05, "momentum": 0.5, "nesterov": True, "foreach": False}),
    "shampoo": ("pytorch_optimizer", "Shampoo", {"lr": 0.1}),
    "soap": ("pytorch_optimizer", "SOAP", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", REFERENCES)
def test_an_optimizer_does_what_its_library_does(name, unchanged):
    """The kernels of many tensors agree with the plain ones, and cards with the library's own defaults."""
    module, attribute, settings = REFERENCES[name]
    model = Weights()
    optimizer = getattr(pytest.importorskip(module), attribute)(model.parameters(), **settings)
    assert torch.allclose(unchanged[name], take(optimizer, model, range(6)), rtol=1e-12, atol=0)


def test_every_optimizer_has_a_reference():
    """``lbfgs`` is compared with torch's in test_lbfgs.py, ``muon`` in test_library.py."""
    assert set(REFERENCES) == set(OPTIMIZERS) - {"lbfgs", "muon"}


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if not name.startswith("lbfgs")])
def test_parameters_may_differ_in_dtype(name):
    """Those of torch are updated in groups of one kind."""
    model = Weights()
    model.all[2] = torch.nn.Parameter(model.all[2].detach().float())
    before = [one.detach().clone() for one in model.all]
    take(build(name, model), model, range(3))
    for parameter, was in zip(model.all, before, strict=True):
        assert parameter.dtype == was.dtype
        assert (parameter != was).all()
        assert parameter.isfinite().all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_card_says_what_it_is(name):
    table = OPTIMIZERS[name]
    assert all(len(text) > 5 for text in (table.update_rule, table.memory, table.source, table.__doc__ or ""))
    assert len(table.update_rule.splitlines()) <= 2
