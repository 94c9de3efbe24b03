"""One rank and N ranks at equal global batch size compute the same, from equal state, through the real loop."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest

from paceline.data.order import combine_digests, epoch_permutation, indices_digest
from paceline.records import Epoch, Start, rank_file, read_records
from train.trials import BY_HAND, RUN, folder_of, relative_distance, toy_trial

# 501 examples in updates of 50: unequal parts on 3 ranks, and a last update of one example for all ranks.
FIRST_ORDER: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd", "momentum": 0.0},
    "momentum": {"name": "sgd", "momentum": 0.9},
    "adam": {"name": "adam"},
    "adamw": {"name": "adamw"},
}


@pytest.fixture(scope="module")
def runs(rank_pool, tmp_path_factory):
    """Runs of 55 updates by optimizer and number of ranks: their folder, and each rank's result."""
    base = tmp_path_factory.mktemp("parity")

    @cache
    def get(optimizer: str, num_ranks: int):
        trial = toy_trial(num_ranks=num_ranks, optimizer=FIRST_ORDER[optimizer], max_epochs=5)
        folder = folder_of(trial, base)
        return folder, rank_pool.run(RUN, num_ranks=num_ranks, trial=trial.model_dump(), folder=str(folder))

    return get


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("optimizer", FIRST_ORDER)
def test_n_ranks_end_where_one_rank_ends(runs, optimizer, num_ranks):
    """First-order methods: parameters differ by at most 1e-5 of their norm after 55 updates in float32."""
    _, (alone,) = runs(optimizer, 1)
    _, together = runs(optimizer, num_ranks)
    assert alone["end"]["num_updates"] == 55
    assert relative_distance(together[0]["parameters"], alone["parameters"]) <= 1e-5
    assert {result["end"]["num_updates"] for result in together} == {55}
    assert len({result["end"]["parameters_digest"] for result in together}) == 1


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("optimizer", FIRST_ORDER)
def test_initial_parameters_and_order_depend_on_the_seed_alone(runs, optimizer, num_ranks):
    """The same for every optimizer and scale; in each epoch the parts of all ranks make up the whole."""
    reference, _ = runs("sgd", 1)
    expected = next(record for record in read_records(rank_file(reference, 0)) if isinstance(record, Start))
    folder, _ = runs(optimizer, num_ranks)
    records = [read_records(rank_file(folder, rank)) for rank in range(num_ranks)]
    starts = [record for of_rank in records for record in of_rank if isinstance(record, Start)]
    assert {start.initial_parameters_digest for start in starts} == {expected.initial_parameters_digest}
    for epoch in range(5):
        parts = [r for of_rank in records for r in of_rank if isinstance(r, Epoch) and r.epoch == epoch]
        assert [part.rank for part in parts] == list(range(num_ranks))
        whole = indices_digest(epoch_permutation(501, seed=0, epoch=epoch))
        assert combine_digests(part.indices_digest for part in parts) == whole
        order = epoch_permutation(501, seed=0, epoch=epoch)
        in_updates = indices_digest(order + 501 * (np.arange(501) // 50))
        assert combine_digests(part.order_digest for part in parts) == in_updates
        assert len({part.parameters_digest for part in parts}) == 1


def test_another_seed_begins_elsewhere_and_takes_another_order(runs, rank_pool, tmp_path):
    folder, _ = runs("sgd", 1)
    trial = toy_trial(seeds=[1], max_epochs=1)
    rank_pool.run(RUN, num_ranks=1, trial=trial.model_dump(), folder=str(tmp_path))
    for kind, field in ((Start, "initial_parameters_digest"), (Epoch, "parameters_digest")):
        one, other = (
            next(record for record in read_records(rank_file(place, 0)) if isinstance(record, kind))
            for place in (folder, tmp_path)
        )
        assert getattr(one, field) != getattr(other, field)


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_the_same_trial_twice_gives_the_same_bits(runs, rank_pool, tmp_path, num_ranks):
    _, first = runs("adam", num_ranks)
    trial = toy_trial(num_ranks=num_ranks, optimizer=FIRST_ORDER["adam"], max_epochs=5)
    second = rank_pool.run(RUN, num_ranks=num_ranks, trial=trial.model_dump(), folder=str(tmp_path))
    assert second[0]["end"]["parameters_digest"] == first[0]["end"]["parameters_digest"]


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_ddp_at_one_rank_is_single(runs, rank_pool, tmp_path, optimizer):
    """Not a bit differs between the wrapper on one rank and no wrapper."""
    _, (single,) = runs(optimizer, 1)
    trial = toy_trial(optimizer=FIRST_ORDER[optimizer], max_epochs=5, strategies=["ddp"])
    (ddp,) = rank_pool.run(RUN, num_ranks=1, trial=trial.model_dump(), folder=str(tmp_path))
    assert ddp["end"]["parameters_digest"] == single["end"]["parameters_digest"]
    assert ddp["end"]["num_collectives"] == 55
    assert single["end"]["num_collectives"] == 0


@pytest.mark.parametrize(
    ("name", "dtype", "num_iterations", "tolerance", "line_search", "hidden"),
    [
        ("lbfgs-torch", "float32", 20, 1e-5, "none", 0),
        ("lbfgs-torch", "float32", 20, 1e-5, "strong_wolfe", 8),
        ("lbfgs-torch", "float64", 50, 1e-8, "none", 8),
        ("lbfgs-torch", "float64", 50, 1e-8, "strong_wolfe", 8),
        ("lbfgs", "float32", 20, 1e-5, "fixed", 0),
        ("lbfgs", "float64", 50, 1e-8, "weak_wolfe", 8),
    ],
)
def test_full_batch_lbfgs_is_the_same_on_n_ranks(
    rank_pool, tmp_path, name, dtype, num_iterations, tolerance, line_search, hidden
):
    """All examples in one update: equal parameters, and equally many evaluations on all ranks.

    The problems are not solved after so many iterations: at the solution a line search decides on rounding alone.
    """
    results = {}
    for num_ranks in (1, 2, 3, 4):
        trial = toy_trial(
            num_ranks=num_ranks,
            optimizer={
                "name": name, "lr": 1.0 if line_search.endswith("wolfe") else 0.5, "max_iter": num_iterations,
                "line_search": line_search, "tolerance_grad": 0.0, "tolerance_change": 0.0,
            },
            toy={"hidden": hidden, "dtype": dtype},
            global_batch_size=501,
            max_epochs=1,
        )  # fmt: skip
        folder = folder_of(trial, tmp_path)
        results[num_ranks] = rank_pool.run(RUN, num_ranks=num_ranks, trial=trial.model_dump(), folder=str(folder))
    (alone,) = results[1]
    assert alone["end"]["num_gradient_evaluations"] >= num_iterations
    for num_ranks in (2, 3, 4):
        together = results[num_ranks]
        assert relative_distance(together[0]["parameters"], alone["parameters"]) <= tolerance
        assert len({result["end"]["num_gradient_evaluations"] for result in together}) == 1
        assert len({result["end"]["parameters_digest"] for result in together}) == 1
        assert together[0]["end"]["num_updates"] == 1


@pytest.mark.parametrize("line_search", ["none", "strong_wolfe"])
def test_one_minibatch_step_of_lbfgs_is_the_same_on_n_ranks(rank_pool, tmp_path, line_search):
    """From equal state; a budget of a nanosecond ends the trial at the evaluation after its first update."""
    results = {}
    for num_ranks in (1, 2, 3):
        trial = toy_trial(
            num_ranks=num_ranks,
            optimizer={"name": "lbfgs-torch", "max_iter": 4, "line_search": line_search},
            evaluate_every=50,
            max_train_time_s=1e-9,
        )
        folder = folder_of(trial, tmp_path)
        results[num_ranks] = rank_pool.run(RUN, num_ranks=num_ranks, trial=trial.model_dump(), folder=str(folder))
    for num_ranks in (2, 3):
        assert results[num_ranks][0]["end"]["num_updates"] == 1
        assert relative_distance(results[num_ranks][0]["parameters"], results[1][0]["parameters"]) <= 1e-5
        assert len({result["end"]["parameters_digest"] for result in results[num_ranks]}) == 1
        assert len({result["end"]["num_gradient_evaluations"] for result in [*results[num_ranks], *results[1]]}) == 1


def test_the_overlap_is_the_same_examples_at_every_scale(rank_pool, tmp_path):
    """Minibatches, fixed steps: one evaluation of the batch an update and two of the overlap; some parts are empty."""
    results = {}
    for num_ranks in (1, 2, 3):
        trial = toy_trial(
            num_ranks=num_ranks,
            optimizer={
                "name": "lbfgs", "lr": 0.3, "max_iter": 1, "line_search": "fixed", "overlap": 0.1, "history_size": 5,
            },
            toy={"hidden": 8, "dtype": "float64"},
            max_epochs=2,
        )  # fmt: skip
        folder = folder_of(trial, tmp_path)
        results[num_ranks] = rank_pool.run(RUN, num_ranks=num_ranks, trial=trial.model_dump(), folder=str(folder))
    (alone,) = results[1]
    assert alone["end"]["num_gradient_evaluations"] == 3 * alone["end"]["num_updates"] == 66
    for together in (results[2], results[3]):
        assert relative_distance(together[0]["parameters"], alone["parameters"]) <= 1e-8
        assert len({result["end"]["parameters_digest"] for result in together}) == 1


@pytest.mark.parametrize("num_ranks", [1, 3])
@pytest.mark.parametrize("clip", [math.inf, 0.2])
def test_the_loop_computes_what_a_plain_loop_computes(rank_pool, tmp_path, num_ranks, clip):
    """Parameters, and the training loss and accuracy of each epoch, with and without clipping the gradient."""
    options = {} if clip == math.inf else {"clip_grad_norm": clip}
    trial = toy_trial(num_ranks=num_ranks, options=options)
    hand_trial = toy_trial().model_dump()
    (expected,) = rank_pool.run(BY_HAND, num_ranks=1, trial=hand_trial, clip=clip)
    results = rank_pool.run(RUN, num_ranks=num_ranks, trial=trial.model_dump(), folder=str(tmp_path))
    assert relative_distance(results[0]["parameters"], expected["parameters"]) <= 1e-6
    seen = [r.train for r in read_records(rank_file(tmp_path, 0)) if r.kind == "evaluation"]
    assert [epoch["accuracy"] for epoch in seen] == [epoch["accuracy"] for epoch in expected["epochs"]]
    assert [epoch["loss"] for epoch in seen] == pytest.approx([e["loss"] for e in expected["epochs"]], rel=1e-6)


def test_clipping_changes_this_training(rank_pool, tmp_path):
    """Else the comparison above shows nothing."""
    trial = toy_trial().model_dump()
    (free,) = rank_pool.run(BY_HAND, num_ranks=1, trial=trial, clip=math.inf)
    (clipped,) = rank_pool.run(BY_HAND, num_ranks=1, trial=trial, clip=0.2)
    assert relative_distance(free["parameters"], clipped["parameters"]) > 1e-2


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_accumulation_changes_nothing(rank_pool, tmp_path, num_ranks):
    """Three micro-batches, unequal, or fewer where a rank has fewer examples, give the gradient of the whole."""
    results = []
    for steps in (1, 3):
        trial = toy_trial(num_ranks=num_ranks, options={"accumulation_steps": steps})
        folder = folder_of(trial, tmp_path)
        results.append(rank_pool.run(RUN, num_ranks=num_ranks, trial=trial.model_dump(), folder=str(folder)))
    assert relative_distance(results[1][0]["parameters"], results[0][0]["parameters"]) <= 1e-6
    assert len({result["end"]["parameters_digest"] for result in results[1]}) == 1
    assert results[0][0]["end"]["num_collectives"] == results[1][0]["end"]["num_collectives"]
