"""What every contestant promises, over both registries: whoever is registered is tested here.

Each optimizer under ddp (or what takes its place), each strategy with sgd and adam, on real digits with unequal parts.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from paceline.cards import Target
from paceline.optimizer_cards import OPTIMIZERS
from paceline.registry import REGISTRY
from paceline.strategy_cards import STRATEGIES
from paceline.study import validate
from paceline.train import checkpoint
from paceline.trial import Trial, WorkloadFacts, expand
from train.trials import flat, relative_distance

NUM_UPDATES = 36  # three epochs of 4,500 digits, 401 an update, 89 in the last
LEAVE_AFTER = 17  # in the second epoch, and in the middle of any period

# What suits 36 updates of logistic regression on digits where a default does not.
HYPERPARAMETERS: dict[str, dict[str, object]] = {
    "lbfgs": {"max_iter": 2, "history_size": 5},
    "lbfgs-sharded": {"name": "lbfgs", "max_iter": 2, "history_size": 5, "mode": "sharded"},
    "lbfgs-torch": {"max_iter": 2, "history_size": 5, "line_search": "strong_wolfe"},
    "lbfgs-torch-allreduce": {"max_iter": 2, "history_size": 5, "line_search": "strong_wolfe"},
    "adafactor": {"lr": 0.1},
    "lamb": {"lr": 0.1},
    "lars": {"lr": 10.0},
    "lion": {"lr": 3e-3},
    "muon": {"adamw_lr": 1e-2},
    "soap": {"lr": 2e-2},
}
SETTINGS: dict[str, dict[str, object]] = {
    "diloco": {"period": 4},
    "local-sgd": {"period": 4},
    "post-local-sgd": {"start": 8, "period": 4},
    "powersgd": {"rank": 4},
    "top-k": {"density": 0.1},
}
WORKLOADS = {"muon": "lenet5-mnist"}  # where logistic regression has no layer for its rule
LEARNED = 0.8  # validation accuracy after three epochs; a tenth is chance
ALIKE = 1e-6  # relative distance of parameters over scales, in float64: some amplify rounding

# Eigenvectors of a matrix that is zero for every pixel that is always blank: any basis there will do.
ROUNDING_DECIDES = ("soap",)

OF_OPTIMIZERS = [(name, "auto") for name in REGISTRY["optimizers"]]
pytestmark = pytest.mark.runs
OF_STRATEGIES = [
    (optimizer, name)
    for name in REGISTRY["strategies"]
    if name not in ("single", "by-optimizer", "reproducible")  # at one rank; with lbfgs; by a setting of its own
    for optimizer in ("sgd", "adam")
]
PAIRS = [*OF_OPTIMIZERS, *OF_STRATEGIES, ("sgd", "reproducible"), ("adam", "reproducible")]
NAMES = [f"{optimizer}, {strategy}" for optimizer, strategy in PAIRS]


def trial_of(optimizer: str, strategy: str, num_ranks: int, *, seed: int = 0) -> Trial:
    settings = {
        "name": "contestants",
        "seeds": [seed],
        "aa_pair": False,
        "max_epochs": 3,
        "scales": [num_ranks],
        "threads_per_rank": 1,
        "device": "cpu",
        "batch": {"rule": "global", "global_batch_size": 401},
        "workloads": {"digits": {"name": WORKLOADS.get(optimizer, "logreg-mnist"), "dataset": "mnist-small"}},
        "optimizers": {"one": {"name": optimizer, **HYPERPARAMETERS.get(optimizer, {})}},
    }
    if strategy == "reproducible":
        settings["reproducible"] = 4
    elif num_ranks > 1 or strategy not in ("auto",):
        own = SETTINGS.get(strategy, {})
        settings["strategies"] = {f"{strategy}-set": {"name": strategy, **own}} if own else [strategy]
    facts = WorkloadFacts(dataset="mnist-small", data_digest="0" * 16, target=Target(value=0.99))
    (trial,) = expand(validate(settings, source="test"), {"digits": facts}, threads_per_rank=1)
    return trial


@pytest.fixture(scope="module")
def runs(rank_pool, tmp_path_factory):
    """Trials by contestant and number of ranks: each rank's end record, and the parameters that were kept."""
    base = tmp_path_factory.mktemp("contestants")

    @cache
    def get(optimizer: str, strategy: str, num_ranks: int, leave_after: int = 0, wide: bool = False):
        folder = Path(base, f"{optimizer}-{strategy}-{num_ranks}-{leave_after}-{wide}")
        folder.mkdir()
        answers = rank_pool.run(
            "contestants.in_full:run",
            num_ranks=num_ranks,
            trial=trial_of(optimizer, strategy, num_ranks).model_dump(),
            folder=str(folder),
            leave_after=leave_after,
            wide=wide,
        )
        return answers, flat(checkpoint.load_newest(folder)["model"])

    return get


def card_of(strategy: str):
    return STRATEGIES["ddp" if strategy == "auto" else strategy]


@pytest.mark.parametrize(("optimizer", "strategy"), PAIRS, ids=NAMES)
def test_it_learns_and_its_ranks_keep_the_same_parameters(runs, optimizer, strategy):
    answers, _ = runs(optimizer, strategy, 2)
    ends = [answer["end"] for answer in answers]
    assert {end["status"] for end in ends} == {"completed"}
    assert {end["num_updates"] for end in ends} == {NUM_UPDATES}
    assert ends[0]["test"]["accuracy"] > LEARNED
    assert len({end["parameters_digest"] for end in ends}) == 1


@pytest.mark.parametrize(("optimizer", "strategy"), PAIRS, ids=NAMES)
def test_left_and_taken_up_again_it_ends_with_the_same_bits(runs, optimizer, strategy):
    """Which also says that it is deterministic."""
    expected, _ = runs(optimizer, strategy, 2)
    answers, _ = runs(optimizer, strategy, 2, LEAVE_AFTER)
    for answer, straight in zip(answers, expected, strict=True):
        for field in ("parameters_digest", "num_gradient_evaluations", "bytes_sent", "num_collectives", "test"):
            assert answer["end"][field] == straight["end"][field], field


ON_FOUR_RANKS = [
    ("adam", "ddp"),
    ("lbfgs", "auto"),
    ("lbfgs-sharded", "auto"),
    ("sgd", "powersgd"),
    ("sgd", "top-k"),
    ("adam", "diloco"),
    ("sgd", "post-local-sgd"),
    ("adam", "zero1"),
]


@pytest.mark.parametrize(("optimizer", "strategy"), ON_FOUR_RANKS, ids=map(", ".join, ON_FOUR_RANKS))
def test_so_it_does_on_four_ranks(runs, optimizer, strategy):
    """Each of which has a part of its own: of error feedback, momentum, pairs, optimizer's state."""
    expected, _ = runs(optimizer, strategy, 4)
    answers, _ = runs(optimizer, strategy, 4, LEAVE_AFTER)
    assert len({answer["end"]["parameters_digest"] for answer in answers}) == 1
    for answer, straight in zip(answers, expected, strict=True):
        for field in ("parameters_digest", "num_gradient_evaluations", "bytes_sent", "num_collectives", "test"):
            assert answer["end"][field] == straight["end"][field], field


@pytest.mark.parametrize(("optimizer", "strategy"), PAIRS, ids=NAMES)
def test_one_rank_and_two_agree_where_that_is_promised(runs, optimizer, strategy):
    """And elsewhere they differ: what is not promised is not so."""
    _, together = runs(optimizer, strategy, 2, wide=True)
    alone_by = "auto" if strategy != "reproducible" else strategy
    _, alone = runs(optimizer, alone_by, 1, wide=True)
    distance = relative_distance(together, alone)
    if optimizer in ROUNDING_DECIDES:
        losses = [runs(optimizer, "auto", num_ranks, wide=True)[0][0]["end"]["test"]["loss"] for num_ranks in (1, 2)]
        assert losses[0] == pytest.approx(losses[1], rel=0.05)
    elif card_of(strategy).exact:
        assert distance <= ALIKE
    else:
        assert distance > 1e-6


@pytest.mark.parametrize(("optimizer", "strategy"), PAIRS, ids=NAMES)
def test_what_it_sends_is_what_its_formula_says(runs, optimizer, strategy):
    answers, _ = runs(optimizer, strategy, 2)
    for answer in answers:
        end, expected = answer["end"], answer["expected"]
        if OPTIMIZERS[optimizer].evaluates_again:  # the formula is for one evaluation an update
            per_evaluation = end["num_collectives"] / end["num_gradient_evaluations"]
            assert per_evaluation == (2.0 if optimizer == "lbfgs-torch-allreduce" else 1.0)
        else:
            assert (end["bytes_sent"], end["num_collectives"]) == tuple(expected.values())


def test_nobody_is_forgotten():
    assert {optimizer for optimizer, _ in PAIRS} == set(REGISTRY["optimizers"]) == set(OPTIMIZERS)
    tested = {strategy for _, strategy in PAIRS} | {"single", "by-optimizer"}  # at one rank; with lbfgs
    assert tested - {"auto"} == set(REGISTRY["strategies"]) == set(STRATEGIES)


REFUSED = [
    (optimizer, strategy)
    for strategy in REGISTRY["strategies"]
    for optimizer in REGISTRY["optimizers"]
    if not OPTIMIZERS[optimizer].reduces and card_of(strategy).why_not(optimizer) and strategy != "single"
]


@pytest.mark.parametrize(("optimizer", "strategy"), REFUSED)
def test_a_pair_that_makes_no_sense_is_refused_with_the_reason(optimizer, strategy):
    from paceline.errors import UsageError

    with pytest.raises(UsageError, match=f"{strategy}.* does not admit one: it"):
        trial_of(optimizer, strategy, 2)
