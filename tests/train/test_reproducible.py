"""``reproducible = true``: the same bits at 1, 2 and 4 ranks, or a refusal that says why not."""

from __future__ import annotations

import pytest

from paceline.errors import UsageError
from paceline.study import validate
from train.trials import RUN, folder_of, toy_settings, toy_trial

DIGESTS = "train.updates:digests"
OPTIMIZERS = {
    "sgd": {"name": "sgd", "lr": 0.01},
    "adam": {"name": "adam"},
    "adamw": {"name": "adamw"},
    "lbfgs": {"name": "lbfgs", "max_iter": 2, "history_size": 5},
    "lbfgs, overlap": {
        "name": "lbfgs",
        "max_iter": 1,
        "history_size": 5,
        "overlap": 0.3,
        "line_search": "fixed",
        "lr": 0.1,
    },
}


def updates(rank_pool, *, num_ranks, optimizer, model, num_updates=50, batch=16, threads=(1, 1, 1, 1)):
    trial = toy_trial(
        num_ranks=num_ranks,
        reproducible=4,
        optimizer=optimizer,
        workloads={"toy": {"name": "workloads.pictures:build", "options": {"model": model}}},
        global_batch_size=batch,
    )
    return rank_pool.run(
        DIGESTS, num_ranks=num_ranks, trial=trial.model_dump(), num_updates=num_updates, threads=list(threads)
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_lenet_has_the_same_bits_at_every_scale(rank_pool, optimizer):
    """Losses and parameters after each of 50 updates."""
    (alone,) = updates(rank_pool, num_ranks=1, optimizer=OPTIMIZERS[optimizer], model="lenet5")
    assert len(set(alone["found"])) == 50, "it trains"
    for num_ranks in (2, 4):
        together = updates(rank_pool, num_ranks=num_ranks, optimizer=OPTIMIZERS[optimizer], model="lenet5")
        assert [answer["found"] for answer in together] == [alone["found"]] * num_ranks


def test_batch_statistics_are_those_of_the_microbatch(rank_pool):
    """ResNet-20 with its running statistics, which move once an update; also with L-BFGS' several evaluations."""
    for optimizer in ("adam", "lbfgs"):
        (alone,), *others = (
            updates(
                rank_pool,
                num_ranks=num_ranks,
                optimizer=OPTIMIZERS[optimizer],
                model="resnet20",
                num_updates=6,
                batch=8,
            )
            for num_ranks in (1, 2, 4)
        )
        for together in others:
            assert [answer["found"] for answer in together] == [alone["found"]] * len(together)


@pytest.mark.runs
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resnet_has_the_same_bits_at_every_scale(rank_pool, optimizer):
    """Losses, parameters and running statistics after each of 50 updates."""
    (alone,), *others = (
        updates(rank_pool, num_ranks=num_ranks, optimizer=OPTIMIZERS[optimizer], model="resnet20", batch=8)
        for num_ranks in (1, 2, 4)
    )
    assert len(set(alone["found"])) == 50, "it trains"
    for together in others:
        assert [answer["found"] for answer in together] == [alone["found"]] * len(together)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_dropout_and_updates_with_too_few_examples(rank_pool, tmp_path, optimizer):
    """The last update of an epoch has one example: three microbatches are empty; dropout draws alike everywhere."""
    ends = []
    for num_ranks in (1, 2, 4):
        trial = toy_trial(
            num_ranks=num_ranks,
            reproducible=4,
            optimizer=OPTIMIZERS[optimizer],
            toy={"dropout": 0.3, "running_mean": True},
        )
        folder = folder_of(trial, tmp_path)
        ends += rank_pool.run(RUN, num_ranks=num_ranks, trial=trial.model_dump(), folder=str(folder))
    assert len({answer["end"]["parameters_digest"] for answer in ends}) == 1


def test_ranks_with_other_numbers_of_threads_are_refused(rank_pool):
    told = updates(rank_pool, num_ranks=2, optimizer=OPTIMIZERS["sgd"], model="lenet5", num_updates=1, threads=(1, 2))
    assert all("ranks have different numbers of threads" in answer["refused"] for answer in told)


def test_what_is_sent_is_an_all_gather_an_evaluation(rank_pool):
    together = updates(rank_pool, num_ranks=4, optimizer=OPTIMIZERS["sgd"], model="lenet5", num_updates=3)
    (sizes,) = {answer["traffic"]["bytes_sent"] for answer in together}
    assert {answer["traffic"]["num_collectives"] for answer in together} == {3}
    assert sizes % (3 * 3) == 0, "three updates, to three others"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scales": [1, 3]}, "must be powers of two"),
        ({"reproducible": 6}, "must be powers of two"),
        ({"reproducible": 2, "scales": [1, 4]}, "must be powers of two, the first the largest; 4 is not"),
        ({"reproducible": 64}, "an update of 50 examples cannot be cut into 64 microbatches"),
        ({"strategies": ["ddp"], "scales": [2]}, "leave strategies out"),
        ({"options": {"accumulation_steps": 2}}, "leave accumulation_steps out"),
    ],
)
def test_what_cannot_be_kept_is_refused(changes, said):
    with pytest.raises(UsageError, match=said):
        validate(toy_settings(**({"reproducible": True, "scales": [1, 2]} | changes)), source="test")
