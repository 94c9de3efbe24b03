"""A trial that goes on with what another one computed on another number of ranks."""

import pytest

from paceline.records import Start, rank_file, read_records, write_versioned
from paceline.train import checkpoint
from paceline.trial import as_json
from train.test_checkpoint import folder_of, leave
from train.trials import flat, relative_distance, toy_trial

RUN = "train.interrupted:run"
WITHIN_AN_EPOCH = 15  # updates; an epoch has eleven
LBFGS = {"name": "lbfgs", "max_iter": 2, "line_search": "strong_wolfe"}


def on(num_ranks, **settings):
    return toy_trial(**{"num_ranks": num_ranks, "optimizer": {"name": "adam"}, "max_epochs": 3} | settings)


def laid_out(trial, runs):
    folder = folder_of(trial, runs)
    write_versioned(folder / "trial.json", as_json(trial))
    return folder


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (3, 2)])
@pytest.mark.parametrize(
    "optimizer", [{"name": "sgd", "momentum": 0.9}, {"name": "adam"}, LBFGS], ids=lambda one: one["name"]
)
def test_it_ends_as_one_that_nobody_interrupted(rank_pool, tmp_path, optimizer, before, after):
    """But for rounding; scores of the epoch in which it changed are those of all of its examples."""
    first, second = on(before, optimizer=optimizer), on(after, optimizer=optimizer)
    straight, left, rest = (laid_out(trial, tmp_path) for trial in (second, first, second))
    expected = rank_pool.run(RUN, num_ranks=after, trial=second.model_dump(), folder=str(straight))[0]
    leave(rank_pool, first, left, after=WITHIN_AN_EPOCH)
    told = rank_pool.run(
        RUN, num_ranks=after, trial=second.model_dump(), folder=str(rest), begins_with=str(left), leave_after=25
    )
    assert told == [None] * after, "it was left again, in the third epoch"
    ended = rank_pool.run(RUN, num_ranks=after, trial=second.model_dump(), folder=str(rest), begins_with=str(left))[0]
    same = ("num_updates", "num_samples", "num_gradient_evaluations", "status")
    assert {key: ended[key] for key in same} == {key: expected[key] for key in same}
    kept = [flat(checkpoint.load_newest(folder)["model"]) for folder in (straight, rest)]
    assert relative_distance(*kept) < 1e-4
    whole, own = (
        [one for one in read_records(rank_file(folder, 0)) if one.kind == "evaluation"] for folder in (straight, rest)
    )
    assert own[0].train == pytest.approx(whole[1].train, rel=1e-3)
    starts = [one for one in read_records(rank_file(rest, 0)) if isinstance(one, Start)]
    assert starts[0].continues == first.id
    assert [one.num_epochs_before for one in starts] == [1, 0]


@pytest.mark.parametrize(
    ("there", "here", "says"),
    [
        ({}, {"optimizer": {"name": "adam", "lr": 0.5}}, "another hyperparameters"),
        ({}, {"seeds": [3]}, "another seed"),
        ({}, {"strategies": ["powersgd"]}, "under powersgd ranks have state or gradients of their own"),
        ({"strategies": ["top-k"]}, {}, "under top-k ranks have state or gradients of their own"),
        ({}, {"strategies": ["local-sgd"]}, "under local-sgd ranks have state or gradients of their own"),
        ({"strategies": ["zero1"]}, {}, "under zero1 ranks have state or gradients of their own"),
    ],
)
def test_what_cannot_go_on_there_is_refused_with_the_reason(rank_pool, tmp_path, there, here, says):
    first, second = on(2, **there), on(1 if "strategies" not in here else 2, **here)
    left, rest = laid_out(first, tmp_path), laid_out(second, tmp_path)
    leave(rank_pool, first, left, after=WITHIN_AN_EPOCH)
    told = rank_pool.run(
        RUN, num_ranks=second.num_ranks, trial=second.model_dump(), folder=str(rest), begins_with=str(left)
    )
    assert all(says in one for one in told), told
    assert len(set(told)) == 1


def test_a_trial_without_a_checkpoint_is_refused(rank_pool, tmp_path):
    first = on(2)
    folder = laid_out(first, tmp_path)
    told = rank_pool.run(
        RUN, num_ranks=1, trial=on(1).model_dump(), folder=str(folder_of(on(1), tmp_path)), begins_with=str(folder)
    )
    assert "has no checkpoint to go on with" in told[0]


@pytest.mark.parametrize("strategy", ["top-k", "local-sgd", "zero1"])
def test_as_many_ranks_under_the_same_strategy_end_with_the_same_bits(rank_pool, tmp_path, strategy):
    trial = on(2, strategies=[strategy])
    straight, left, rest = (laid_out(trial, tmp_path) for _ in range(3))
    expected = rank_pool.run(RUN, num_ranks=2, trial=trial.model_dump(), folder=str(straight))
    leave(rank_pool, trial, left, after=WITHIN_AN_EPOCH)
    ended = rank_pool.run(RUN, num_ranks=2, trial=trial.model_dump(), folder=str(rest), begins_with=str(left))
    assert [one["parameters_digest"] for one in ended] == [one["parameters_digest"] for one in expected]
