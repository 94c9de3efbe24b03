"""Strategies whose ranks train by themselves: local SGD, post-local SGD, DiLoCo."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from paceline.strategies.vector import joined, put_back
from paceline.strategy_cards import STRATEGIES
from train.trials import relative_distance

TRAIN = "strategies.contestants:train"
PLAIN = {"name": "sgd", "momentum": 0.0, "lr": 0.3}
ADAM = {"name": "adam", "lr": 0.03}
CASES = {
    "local-sgd": {"period": 3},
    "post-local-sgd": {"start": 3, "period": 2},
    "diloco": {"period": 3},
}


@pytest.fixture
def train(rank_pool):
    """Answers of ranks after seven updates of 48 examples, unless told otherwise."""

    def call(strategy, settings=None, *, num_ranks=2, sizes=(48,) * 7, optimizer=PLAIN, toy=None):
        return rank_pool.run(
            TRAIN, num_ranks=num_ranks, strategy=strategy, settings=settings or {}, sizes=list(sizes),
            optimizer=optimizer, toy=toy or {},
        )  # fmt: skip

    return call


def after(answer, update):
    return answer["updates"][update - 1]["after"]


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_a_meeting_after_each_update_of_plain_sgd_is_ddp(train, num_ranks):
    """Parts are equal, so that the mean of means is the mean."""
    local, ddp = train("local-sgd", {"period": 1}, num_ranks=num_ranks), train("ddp", num_ranks=num_ranks)
    assert relative_distance(after(local[0], 7), after(ddp[0], 7)) <= 1e-12
    assert relative_distance(after(local[0], 7), after(local[0], 1)) > 1e-2, "else this shows nothing"


@pytest.mark.parametrize("optimizer", [PLAIN, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("strategy", CASES)
def test_one_rank_alone_is_single_until_it_meets_itself(train, strategy, optimizer):
    (alone,) = train(strategy, CASES[strategy], num_ranks=1, optimizer=optimizer)
    (single,) = train("single", num_ranks=1, optimizer=optimizer)
    until = 2 if strategy == "diloco" else 7  # an outer step moves even one rank
    assert [after(alone, update) for update in range(1, until + 1)] == [
        after(single, update) for update in range(1, until + 1)
    ]
    assert alone["counted"] == alone["expected"] == {"bytes_sent": 0, "num_collectives": 0}


@pytest.mark.parametrize("optimizer", [PLAIN, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize(
    ("strategy", "together"), [("local-sgd", {3, 6}), ("post-local-sgd", {1, 2, 3, 5, 7}), ("diloco", {3, 6})]
)
def test_ranks_differ_between_meetings_and_have_the_same_bits_after_one(train, strategy, together, optimizer):
    """Running statistics too; of updates 1 to 7, ``together`` are those that end with equal ranks."""
    answers = train(strategy, CASES[strategy], num_ranks=3, toy={"running_mean": True}, optimizer=optimizer)
    equal = {update for update in range(1, 8) if len({tuple(after(answer, update)) for answer in answers}) == 1}
    assert equal == together


def test_a_meeting_is_the_mean(train):
    answers = train("local-sgd", {"period": 3}, num_ranks=3, toy={"running_mean": True})
    mean = np.mean([answer["updates"][2]["stepped"] for answer in answers], axis=0)
    assert after(answers[0], 3) == pytest.approx(mean.tolist(), rel=1e-12, abs=1e-14)


def test_post_local_sgd_begins_as_flat_does(train):
    """To the bit, up to its start; the next update is each rank's own."""
    post, flat = train("post-local-sgd", CASES["post-local-sgd"], num_ranks=3), train("flat", num_ranks=3)
    assert [after(post[1], update) for update in (1, 2, 3)] == [after(flat[1], update) for update in (1, 2, 3)]
    assert after(post[1], 4) != after(flat[1], 4)


def test_diloco_with_a_plain_outer_step_is_local_sgd(train):
    outer = {"period": 2, "outer_lr": 1.0, "outer_momentum": 0.0}
    diloco, local = train("diloco", outer, optimizer=ADAM), train("local-sgd", {"period": 2}, optimizer=ADAM)
    assert relative_distance(after(diloco[0], 7), after(local[0], 7)) <= 1e-12


def test_the_outer_step_is_that_of_the_paper(train):
    """Written out: v = 0.9 v + d and x = x - 0.7 (d + 0.9 v), d being x less the mean of what ranks have."""
    answers = train("diloco", {"period": 2}, num_ranks=3, sizes=(48,) * 6, optimizer=ADAM)
    point = np.array(answers[0]["begun"])
    velocity = np.zeros_like(point)
    for update in (2, 4, 6):
        outer_gradient = point - np.mean([answer["updates"][update - 1]["stepped"] for answer in answers], axis=0)
        velocity = 0.9 * velocity + outer_gradient
        point = point - 0.7 * (outer_gradient + 0.9 * velocity)
        assert after(answers[0], update) == pytest.approx(point.tolist(), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("strategy", CASES)
def test_the_mean_is_evaluated_and_what_was_there_comes_back(train, strategy):
    """After update 7 or 8, between meetings; the same bits on every rank, and nothing of it on the books."""
    sizes = (48,) * (8 if strategy == "post-local-sgd" else 7)
    answers = train(strategy, CASES[strategy], num_ranks=3, sizes=sizes, toy={"running_mean": True})
    last = [after(answer, len(sizes)) for answer in answers]
    assert last[0] != last[1]
    assert answers[0]["evaluated"] == pytest.approx(np.mean(last, axis=0).tolist(), rel=1e-12, abs=1e-14)
    assert answers[0]["evaluated"] == answers[1]["evaluated"] == answers[2]["evaluated"]
    assert [answer["after_evaluation"] for answer in answers] == last
    assert all(answer["counted_after_evaluation"] == answer["counted"] for answer in answers)


@pytest.mark.parametrize("running_mean", [False, True])
@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("strategy", CASES)
def test_what_is_sent_is_as_declared(train, strategy, num_ranks, running_mean):
    for answer in train(strategy, CASES[strategy], num_ranks=num_ranks, toy={"running_mean": running_mean}):
        gradients, statistics = answer["num_parameters"], answer["num_statistics"]
        meeting = 2 * (num_ranks - 1) * 8 * (gradients + statistics) // num_ranks
        with_loss = 2 * (num_ranks - 1) * 8 * (gradients + statistics + 1) // num_ranks
        early = 3 if strategy == "post-local-sgd" else 0
        assert answer["counted"] == {"bytes_sent": early * with_loss + 2 * meeting, "num_collectives": early + 2}
        assert answer["expected"] == answer["counted"]


@pytest.mark.parametrize("strategy", CASES)
def test_gloo_sees_the_collectives_that_are_counted(rank_pool, strategy):
    answers = rank_pool.run(
        "strategies.contestants:collectives", num_ranks=3, strategy=strategy, settings=CASES[strategy],
        sizes=[48] * 8, optimizer=PLAIN, toy={},
    )  # fmt: skip
    assert all(answer["seen"] == answer["counted"] > 1 for answer in answers)


@pytest.mark.parametrize("num_before", [2, 4, 6])
@pytest.mark.parametrize("strategy", CASES)
def test_a_resumed_trial_is_an_uninterrupted_one(rank_pool, tmp_path, strategy, num_before):
    """To the bit, from before the first meeting, between meetings and right after one."""
    answers = rank_pool.run(
        "strategies.contestants:resume", num_ranks=2, strategy=strategy, settings=CASES[strategy],
        sizes=[48] * 9, num_before=num_before, optimizer=ADAM, toy={"running_mean": True}, folder=str(tmp_path),
    )  # fmt: skip
    assert all(answer["resumed"] == answer["uninterrupted"] for answer in answers)


def test_a_rank_without_a_part_stays_where_it_is_and_counts_in_the_mean(train):
    """Updates of one example on three ranks, by plain SGD: one rank has it, the step of all is a third of its step."""
    answers = train("local-sgd", {"period": 2}, num_ranks=3, sizes=(1, 1))
    begun = np.array(answers[0]["begun"])
    moved = [answer["updates"][1]["stepped"] != answer["begun"] for answer in answers]
    assert sorted(moved) == [False, False, True]
    own = np.array(answers[moved.index(True)]["updates"][1]["stepped"])
    assert after(answers[0], 2) == pytest.approx((begun + (own - begun) / 3).tolist(), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("strategy", ["local-sgd", "diloco"])
def test_what_is_not_finite_on_one_rank_is_seen_by_all(train, strategy):
    """At evaluations before ranks meet, and where they meet; nobody waits for ever."""
    sizes = (48,) * 2
    for period, common in ((3, False), (2, True)):
        answers = train(strategy, {"period": period}, sizes=sizes, toy={"nan_example": 30})
        finite = [all(map(math.isfinite, after(answer, 2))) for answer in answers]
        assert finite == ([False, False] if common else [True, False])
        assert not any(math.isfinite(value) for answer in answers for value in answer["evaluated"])


@pytest.mark.parametrize("strategy", [*CASES, "zero1"])
def test_ranks_with_different_models_are_refused_alike(rank_pool, strategy):
    """The same words on both, and no hang."""
    said = rank_pool.run(
        "strategies.contestants:refusal", num_ranks=2, strategy=strategy, settings=CASES.get(strategy, {}),
        optimizer=PLAIN, hidden=[4, 5],
    )  # fmt: skip
    assert said[0] == said[1]
    assert "(4, 6)" in said[0]
    assert "(5, 6)" in said[0]


@pytest.mark.parametrize(
    ("strategy", "given", "first", "words"),
    [
        ("local-sgd", {"period": 12}, 12, "period = 12"),
        ("diloco", {}, 500, "period = 500"),
        ("post-local-sgd", {"start": 10, "period": 3}, 13, "start = 10"),
    ],
)
def test_a_trial_in_which_ranks_would_never_meet_is_refused(strategy, given, first, words):
    settings = STRATEGIES[strategy].settings.model_validate(given)
    assert settings.why_too_short(first) == ""
    said = settings.why_too_short(first - 1)
    assert f"after {first} updates" in said
    assert f"the trial has {first - 1}" in said
    assert words in said


@pytest.mark.parametrize("strategy", CASES)
@pytest.mark.parametrize("wrong", [{"period": 0}, {"period": 1.5}, {"outer": 1}])
def test_settings_out_of_range_are_refused(strategy, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        STRATEGIES[strategy].settings.model_validate(wrong)


def test_a_vector_of_unlike_types_loses_no_digit():
    parts = [torch.tensor([[0.1, 2.0]]), torch.tensor(1 / 3, dtype=torch.float64), torch.tensor([3.3]).bfloat16()]
    vector = joined(parts)
    assert vector.dtype == torch.float64
    copies = [torch.zeros_like(part) for part in parts]
    put_back(vector, copies)
    assert all(torch.equal(copy, part) for copy, part in zip(copies, parts, strict=True))
