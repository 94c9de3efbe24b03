"""DistributedLBFGS on several ranks: one result, whatever their number, their threads, and what goes wrong on one."""

from __future__ import annotations

import pytest

HERE = "optimizers.lbfgs_on_ranks"
MODES = ["replicated", "sharded"]


def same(answers: list[dict], key: str):
    """What all ranks say alike."""
    assert all(answer[key] == answers[0][key] for answer in answers), f"ranks differ in {key}"
    return answers[0][key]


@pytest.fixture(scope="module")
def alone(rank_pool):
    """What one rank finds on logistic regression with a penalty, over a hundred iterations."""
    return rank_pool.run(f"{HERE}:train", num_ranks=1, means=True, max_iter=10, weight_decay=1e-2)[0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_ranks", [2, 3, 4])
def test_ranks_agree_with_one_and_with_each_other(rank_pool, alone, num_ranks, mode):
    """Losses to 1e-5 over a hundred iterations, from unequal parts as (sum, count); the same bits on every rank."""
    answers = rank_pool.run(f"{HERE}:train", num_ranks=num_ranks, mode=mode, max_iter=10, weight_decay=1e-2)
    assert same(answers, "losses") == pytest.approx(alone["losses"], rel=1e-5)
    assert same(answers, "bits")
    assert same(answers, "mode") == mode
    assert same(answers, "num_evaluations") > 50


@pytest.mark.parametrize("mode", MODES)
def test_means_over_equal_parts(rank_pool, alone, mode):
    """A closure may give the mean, where each rank has as many examples."""
    settings = {"mode": mode, "means": True, "num_examples": 300, "num_steps": 3, "max_iter": 10, "weight_decay": 1e-2}
    answers = rank_pool.run(f"{HERE}:train", num_ranks=2, **settings)
    (one,) = rank_pool.run(f"{HERE}:train", num_ranks=1, **settings)
    assert same(answers, "losses") == pytest.approx(one["losses"], rel=1e-5)
    assert same(answers, "bits")


@pytest.mark.parametrize("mode", MODES)
def test_in_float64_ranks_agree_to_more_digits(rank_pool, mode):
    """Strong Wolfe, no penalty: ten digits after 30 iterations."""
    settings = {"mode": mode, "double": True, "num_steps": 3, "max_iter": 10, "line_search_fn": "strong_wolfe"}
    found = [rank_pool.run(f"{HERE}:train", num_ranks=num_ranks, **settings) for num_ranks in (1, 2, 4)]
    for answers in found:
        assert same(answers, "losses") == pytest.approx(found[0][0]["losses"], rel=1e-8)
        assert same(answers, "num_evaluations") == found[0][0]["num_evaluations"]
        assert same(answers, "bits")


@pytest.mark.parametrize("mode", MODES)
def test_lenet5_on_two_ranks(rank_pool, mode):
    """A network that is not convex, to 1e-4 over ten iterations."""
    settings = {"mode": mode, "workload": "lenet5-mnist", "num_examples": 121, "num_steps": 2, "max_iter": 5}
    found = [rank_pool.run(f"{HERE}:train", num_ranks=num_ranks, **settings) for num_ranks in (1, 2)]
    assert same(found[1], "losses") == pytest.approx(found[0][0]["losses"], rel=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_unequal_threads_do_not_part_ranks(rank_pool, mode):
    """One thread on one rank, two on the other: after a hundred iterations the same bits."""
    answers = rank_pool.run(
        f"{HERE}:train", num_ranks=2, mode=mode, threads=[1, 2], max_iter=20, num_steps=4, weight_decay=1e-4
    )
    assert same(answers, "num_iterations") > 40
    assert same(answers, "bits")
    answers = rank_pool.run(f"{HERE}:many_numbers", num_ranks=2, mode=mode, size=100_003, num_steps=6, threads=[2, 1])
    assert same(answers, "num_iterations") >= 100
    assert same(answers, "bits")


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_collectives_of_an_evaluation(rank_pool, num_ranks):
    """Replicated: one each. Sharded: two each, and one an iteration. As gloo itself counts."""
    for mode in MODES:
        for answer in rank_pool.run(f"{HERE}:traffic", num_ranks=num_ranks, mode=mode, num_steps=3):
            evaluations, iterations = answer["evaluations"], answer["iterations"]
            assert evaluations > iterations >= 12
            expected = evaluations if mode == "replicated" else 2 * evaluations + iterations
            assert answer["counted"] == sum(answer["seen"].values()) == expected, answer


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_sharded_history_is_a_share(rank_pool, num_ranks):
    """2 m d / W float32 numbers, but for the padding of blocks to 16 elements."""
    sizes = {}
    for mode in MODES:
        answers = rank_pool.run(
            f"{HERE}:train", num_ranks=num_ranks, mode=mode, num_steps=1, max_iter=2, history_size=10
        )
        sizes[mode] = same(answers, "history_bytes")
    least = 2 * 10 * answers[0]["num_parameters"] * 4
    assert least <= sizes["replicated"] < 1.02 * least
    assert least / num_ranks <= sizes["sharded"] < 1.02 * least / num_ranks


@pytest.mark.parametrize("mode", MODES)
def test_overlap_damping_and_losses_alone(rank_pool, mode):
    """Every closure at once: the same bits on every rank."""
    settings = {
        "mode": mode, "with_overlap": True, "damping": True, "line_search_fn": "armijo", "num_steps": 5,
        "max_iter": 4, "weight_decay": 1e-2, "double": True, "lr": 30.0,
    }  # fmt: skip
    answers = rank_pool.run(f"{HERE}:train", num_ranks=2, **settings)
    assert same(answers, "bits")
    assert same(answers, "losses")[-1] < 0.3 * answers[0]["losses"][0]
    assert same(answers, "num_losses_alone") > 5


# states


@pytest.mark.parametrize("mode", MODES)
def test_a_state_goes_on_at_another_number_of_ranks(rank_pool, tmp_path, mode):
    """Saved by four, resumed by four, three, two and one: the same next losses."""
    path = str(tmp_path / "state.pt")
    settings = {"max_iter": 5, "history_size": 8, "weight_decay": 1e-3}
    answers = rank_pool.run(f"{HERE}:train", num_ranks=4, mode=mode, num_steps=3, save=path, **settings)
    expected = same(answers, "losses")[3:]
    for num_ranks, other_mode in ((4, mode), (3, "sharded"), (2, "sharded"), (2, "replicated"), (1, "local")):
        answers = rank_pool.run(
            f"{HERE}:train", num_ranks=num_ranks, mode=other_mode, num_steps=3, resume=path, **settings
        )
        assert same(answers, "losses") == pytest.approx(expected, rel=1e-4), f"{num_ranks} ranks, {other_mode}"
        assert same(answers, "bits")


@pytest.mark.parametrize("mode", MODES)
def test_a_rank_resumes_its_own_state_bit_for_bit(rank_pool, tmp_path, mode):
    """After the ring of pairs went round, on three ranks."""
    for answer in rank_pool.run(f"{HERE}:resume_in_place", num_ranks=3, mode=mode, folder=str(tmp_path)):
        assert answer["resumed"] == answer["straight"]
        assert answer["same_bits"]


def test_the_share_of_another_rank_is_refused(rank_pool, tmp_path):
    """With what it holds, what is needed and where to get it."""
    for said in rank_pool.run(f"{HERE}:load_a_share", num_ranks=2, folder=str(tmp_path)):
        assert said.startswith("the state holds elements")
        assert "load what gather_state_dict gave" in said


# what goes wrong on one rank


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        ("raises", "RankFailedError", "rank 1: ZeroDivisionError: the data ran out"),
        ("no gradient", "RankFailedError", "rank 1: ValueError: parameter 0 got no gradient; leave it out, or let"),
        ("mean among sums", "RankFailedError", "closures gave a sum over 30, a mean, a sum over 60"),
        ("other start", "RanksDifferError", "rank 1: other parameters, or other decisions, than rank 0"),
        ("other model", "RanksDifferError", "rank 1: another model or other settings than rank 0"),
        ("other order", "RanksDifferError", "rank 1: another model or other settings than rank 0"),
        ("other settings", "RanksDifferError", "rank 1: another model or other settings than rank 0"),
        ("other lr", "RanksDifferError", "rank 1: another model or other settings than rank 0"),
        ("another closure", "RanksDifferError", "rank 1: another model or other settings than rank 0"),
    ],
)
def test_every_rank_is_told_of_one(rank_pool, mode, fault, kind, said):
    """The same error at the same evaluation; where the fault passes, they can go on in step."""
    answers = rank_pool.run(f"{HERE}:fail", num_ranks=3, mode=mode, fault=fault, deadline_s=20.0)
    assert same(answers, "kind") == kind
    assert same(answers, "said").startswith(said)
    if "bits_later" in answers[0]:
        assert same(answers, "bits")
        assert same(answers, "bits_later") != answers[0]["bits"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", ["nan loss", "inf loss", "nan gradient"])
@pytest.mark.parametrize("at_evaluation", [1, 2, 4])
def test_what_is_not_finite_on_one_rank_is_taken_by_none(rank_pool, mode, fault, at_evaluation):
    """At the start the step says so; at a trial, the search takes another one. All ranks go on in step."""
    answers = rank_pool.run(
        f"{HERE}:fail", num_ranks=3, mode=mode, fault=fault, at_evaluation=at_evaluation, deadline_s=20.0
    )
    assert same(answers, "kind") == ""
    assert same(answers, "is_finite")
    assert (same(answers, "status") == "not_finite") == (at_evaluation == 1)
    assert same(answers, "bits") != same(answers, "bits_later")


# the naive combination


def test_stock_ddp_with_torchs_lbfgs_falls_apart_where_this_does_not(rank_pool):
    """Same digits, same search, unequal parts. DDP's ranks decide from their own losses.

    They need unequal numbers of evaluations for a step, so that gradients of different places are averaged; whoever is
    done first leaves the other waiting. Here both are stopped after as many evaluations, so that nothing hangs.
    """
    naive = rank_pool.run(f"{HERE}:of_ddp", num_ranks=2, num_evaluations=80, num_examples=500)
    assert naive[0]["evaluations"] != naive[1]["evaluations"]
    apart = max(abs(a - b) for a, b in zip(naive[0]["parameters"], naive[1]["parameters"], strict=True))
    assert apart > 0.01
    answers = rank_pool.run(
        f"{HERE}:train", num_ranks=2, num_examples=500, num_steps=7, max_iter=10, line_search_fn="strong_wolfe"
    )
    assert same(answers, "bits")
    assert same(answers, "losses")[-1] < 1e-3
